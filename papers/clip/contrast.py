"""The contrast of a whole global batch, on any number of processes and micro-batches (Sec. 2.5).

Each pair is compared with all the others of the global batch, so that the loss is no sum over parts of it. Embeddings come first,
of all micro-batches; then the loss and its gradients with respect to embeddings, each process having the similarities of its own
pairs only; then the gradients of the weights, micro-batch by micro-batch, whose embeddings are computed again where there are
several. Every way gives the gradients of the whole batch in one piece.
"""

import torch
from torch import Tensor, nn

from common.processes import bare
from common.run import Run
from papers.clip.model import contrastive_loss


def contrast(run: Run, I: Tensor, T: Tensor, scale: Tensor, N: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """This process's part of the loss, and the gradients of the whole loss.

    I, T: embeddings of this process's pairs (b, E), of N in all. Returns the loss (the mean over the pairs here, times b / N), its
    gradients with respect to I and T over all processes (b, E), and that with respect to the scale on this one.
    """
    mine = run.share(N)
    all_I, all_T = (run.gather(each.detach(), N).requires_grad_() for each in (I, T))  # (N, E)
    scale = scale.detach().requires_grad_()
    loss = contrastive_loss(all_I, all_T, scale, mine) * (len(I) / N)
    dI, dT, dscale = torch.autograd.grad(loss, (all_I, all_T, scale))
    if run.processes > 1:  # the rows of other processes look at these embeddings too
        for each in (dI, dT):
            torch.distributed.all_reduce(each)
    return loss.detach(), dI[mine], dT[mine], dscale


def learn(run: Run, model: nn.Module, images: Tensor, tokens: Tensor, N: int) -> Tensor:
    """Gradients of the loss of the global batch's N pairs, of which these are here; the loss, a mean over processes."""
    pieces = lambda: run.micro_batches((images, tokens), model, of=N)
    whole = run.options.micro_batch is None or run.options.micro_batch >= len(images)
    net = model if whole else bare(model)  # the latter knows nothing of other processes, for no gradient comes of it
    with torch.set_grad_enabled(whole), run.autocast():
        embedded = [net(*piece) for piece, _ in pieces()]
    I, T = (torch.cat([each[i] for each in embedded]) for i in (0, 1))
    loss, dI, dT, dscale = contrast(run, I, T, embedded[0][2], N)
    start = 0
    for piece, _ in pieces():
        if not whole:
            with run.autocast():
                embedded = [model(*piece)]
        (I, T, scale), stop = embedded[0], start + len(piece[0])
        part = dscale * (len(piece[0]) / len(images))
        run.backward(run.processes * ((I * dI[start:stop]).sum() + (T * dT[start:stop]).sum() + scale * part))
        start = stop
    return loss * run.processes
