// What the pages do beyond links: a place's lines shown, a chart read, a file copied, search, light and dark. Without it all is still there to read.
"use strict";
const all = (q, of = document) => [...of.querySelectorAll(q)];
const root = document.documentElement;
const kept = (() => { try { return localStorage; } catch { return {}; } })();  // a file: page may have none
const asked = new URLSearchParams(location.search);
if (asked.get("theme")) root.dataset.theme = asked.get("theme");

function theme() {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = kept.theme = dark ? "light" : "dark";
}
document.getElementById("theme").addEventListener("click", theme);

addEventListener("load", () => all("img").forEach(i => { i.loading = "eager"; }));  // the text first; then what a print may need

// Without a font for formulas what is below a letter would stand beside it.
const sub = document.querySelector("msub");
if (sub && sub.children[1].getBoundingClientRect().bottom <= sub.children[0].getBoundingClientRect().bottom + 0.5) root.classList.add("flat");

// Places: the lines that implement one.
let lit = [], now = -1;
function clear() {
  all(".lit, .now, .mark.on").forEach(e => e.classList.remove("lit", "now", "on"));
  lit = []; now = -1;
}
function go(to) {
  if (!lit.length) return;
  lit[now]?.classList.remove("now");
  now = (to + lit.length) % lit.length;
  lit[now].classList.add("now");
  lit[now].scrollIntoView({ block: "center" });
}
function show(key, move = true) {
  clear();
  const lines = all(`.l[data-p~="${CSS.escape(key)}"]`);
  lines.forEach(l => l.classList.add("lit"));
  lit = lines.filter(l => !l.previousElementSibling?.classList.contains("lit") || l.previousElementSibling.id !== l.id.replace(/\d+$/, n => n - 1));
  all(`.mark[data-key="${CSS.escape(key)}"]`).forEach(m => m.classList.add("on"));
  if (move) go(0);
}
all(".mark").forEach(m => m.addEventListener("click", () => { history.pushState(null, "", "#" + m.dataset.key); show(m.dataset.key); }));  // Back leads back
function arrived() {
  const entry = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  [entry?.closest("details"), entry?.nextElementSibling].forEach(e => { if (e?.matches("details")) e.open = true; });
  const mark = entry?.querySelector?.(":scope > .mark");
  if (mark) show(mark.dataset.key, false);
}
addEventListener("hashchange", arrived);
if (asked.get("show")) show(asked.get("show")); else arrived();

// Copy a file as it is; what is selected from the code on has no notes in it.
addEventListener("pointerdown", e => root.classList.toggle("selecting", !!e.target.closest(".right")));
all(".copy").forEach(b => b.addEventListener("click", async () => {
  const text = all(`.file[data-file="${b.dataset.file}"] .l`).map(l => l.textContent).join("");
  try { await navigator.clipboard.writeText(text); }
  catch {
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
  }
  b.textContent = "copied"; setTimeout(() => { b.textContent = "copy"; }, 1500);
}));

// Charts: the point of a curve below the pointer, or with the arrow keys.
const SVG = "http://www.w3.org/2000/svg";
const draw = (g, tag, attributes, text) => {
  const e = document.createElementNS(SVG, tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text) e.textContent = text;
  g.append(e);
};
all(".chart").forEach(svg => {
  const [x0, x1, y0, y1] = svg.dataset.range.split(" ").map(Number), [left, right, bottom, top] = svg.dataset.box.split(" ").map(Number);
  const curves = all(".ours", svg).map(p => p.getAttribute("points").split(" ").map(q => q.split(",").map(Number)));
  const g = svg.querySelector(".read"); let at = left;
  const read = x => {
    g.replaceChildren(); at = Math.max(left, Math.min(right, x));
    const near = curves.map(c => c.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
    const value = near.map(p => +(y0 + (bottom - p[1]) / (bottom - top) * (y1 - y0)).toPrecision(3)).join(", ");
    draw(g, "line", { x1: near[0][0], x2: near[0][0], y1: top, y2: bottom });
    near.forEach(p => draw(g, "circle", { cx: p[0], cy: p[1], r: 3 }));
    const step = Math.round((x0 + (near[0][0] - left) / (right - left) * (x1 - x0)) * 100) / 100;
    draw(g, "text", { x: right, y: top + 2 }, `≈ ${value} at ${svg.dataset.axis} ${step.toLocaleString("en")}`);
  };
  svg.addEventListener("pointermove", e => { const box = svg.getBoundingClientRect(); read((e.clientX - box.left) / box.width * svg.viewBox.baseVal.width); });
  svg.addEventListener("pointerleave", () => g.replaceChildren());
  svg.addEventListener("blur", () => g.replaceChildren());
  svg.addEventListener("keydown", e => { if (e.key === "ArrowLeft" || e.key === "ArrowRight") { e.preventDefault(); read(at + (e.key === "ArrowLeft" ? -8 : 8)); } });
});

// Search, on the start page: every word has to be in the line.
const query = document.getElementById("query"), hits = document.getElementById("hits");
let loading;
const entries = () => loading ??= new Promise(done => document.head.append(Object.assign(document.createElement("script"), { src: "search.js", onload: () => done(window.ENTRIES) })));
const escaped = text => text.replace(/[&<>"]/g, c => `&#${c.charCodeAt(0)};`);
async function search() {
  const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length || query.value.trim().length < 2) { hits.replaceChildren(); return; }
  const found = [], most = 60; let n = 0;
  for (const [folder, title, lines] of await entries()) {
    const name = title.toLowerCase(); let mine = 0;
    for (const [id, text] of lines) {
      const low = text.toLowerCase();
      if (!words.every(w => low.includes(w) || name.includes(w)) || !words.some(w => low.includes(w))) continue;
      n++;
      if (++mine > 8 || found.length >= most) continue;
      const first = Math.max(0, low.indexOf(words.find(w => low.includes(w))) - 60), part = (first ? "… " : "") + text.slice(first, first + 160);
      const marked = escaped(part).replace(new RegExp(words.map(w => escaped(w).replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"), "gi"), "<mark>$&</mark>");
      found.push(`<a href="${folder}.html#${id}"><b>${escaped(title)} · ${id.replace("-", " ")}</b> ${marked}</a>`);
    }
  }
  hits.innerHTML = `<p class="count">${n.toLocaleString("en")} line${n === 1 ? "" : "s"}</p>` + found.join("");
}
if (query) {
  query.addEventListener("input", search);
  if (asked.has("q")) { query.value = asked.get("q"); query.focus(); search(); }
}
addEventListener("keydown", e => {
  if (e.target.matches("input, textarea") || e.ctrlKey || e.metaKey || e.altKey) { if (e.key === "Escape") e.target.blur(); return; }
  if (e.key === "/" && query) { e.preventDefault(); query.focus(); }
  else if (e.key === "/") location.href = "index.html?q=";
  else if (e.key === "t") theme();
  else if (e.key === "j") go(now + 1);
  else if (e.key === "k") go(now - 1);
  else if (e.key === "Escape") clear();
});
