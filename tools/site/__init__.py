"""The site to read beside the papers: `make site` writes it, static, to site/."""
