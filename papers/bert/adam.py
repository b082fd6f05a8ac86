"""The authors' optimizer: Adam without bias correction, decay apart from the gradient, and not of norms and biases."""

import math

import torch
from torch import nn


class Adam(torch.optim.AdamW):
    """Appendix A.2: "Adam with learning rate of 1e-4, beta_1 = 0.9, beta_2 = 0.999, L2 weight decay of 0.01".

    As in the authors' code: w -= lr (m / (sqrt(v) + 1e-6) + decay w). That is torch's AdamW after infinitely many steps, when its
    corrections of bias, 1 - beta^t, are 1; so its fused kernel serves, with a count of steps that begins there.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float = 0.01) -> None:
        decayed = [p for p in model.parameters() if p.ndim > 1]  # matrices and embeddings; not norms and biases
        others = [p for p in model.parameters() if p.ndim == 1]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        super().__init__(groups, lr, betas=(0.9, 0.999), eps=1e-6, fused=True)

    @torch.no_grad()
    def step(self) -> None:
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None and not self.state[p]):
            step = torch.full((), math.inf, dtype=torch.float32, device=p.device)
            self.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        super().step()


def adamw(model: nn.Module, lr: float, weight_decay: float = 0.01) -> torch.optim.AdamW:
    """torch's, as most fine-tune today: biases corrected, epsilon 1e-8. The same weights decay."""
    groups = Adam(model, lr, weight_decay).param_groups
    return torch.optim.AdamW([{k: group[k] for k in ("params", "weight_decay")} for group in groups], lr, eps=1e-8, fused=True)
