"""Sec. 5's update: stochastic gradient descent whose velocity has the learning rate within."""

import torch


class Momentum(torch.optim.Optimizer):
    """v = momentum v - weight_decay lr w - lr gradient;  w = w + v.

    torch.optim.SGD multiplies its velocity by the rate of the moment. While the rate is constant both take the same steps; when
    it drops, here the velocity is still that of the old rate, and dies away.

    Args:
        groups: dicts of `params`, `lr`, `weight_decay`, and whatever a recipe wants to know of them.
        momentum: of all of them.
    """

    def __init__(self, groups: list[dict], momentum: float) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if "v" not in self.state[p]:
                    self.state[p]["v"] = torch.zeros_like(p)
            v, lr = [self.state[p]["v"] for p in params], group["lr"]
            torch._foreach_mul_(v, group["momentum"])
            if group["weight_decay"]:
                torch._foreach_add_(v, params, alpha=-group["weight_decay"] * lr)
            torch._foreach_add_(v, [p.grad for p in params], alpha=-lr)
            torch._foreach_add_(params, v)
