"""What the small runs are tested for: zero-shot classification, by any of the objectives, and retrieval both ways."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from common.run import Run
from papers.clip.data import Data
from papers.clip.model import CLIP, zero_shot_classifier
from papers.clip.objectives import Supervised

AT_ONCE = 200  # images


def evaluate(run: Run, models: Mapping[str, nn.Module], data: Data) -> dict[str, float]:
    """All in %: accuracies on the test images, of each model, and recalls of the held-out concepts, of the model called ""."""
    found = {}
    for name, model in models.items():
        hits = classified(run, model, data)
        found[f"{name or 'zero_shot_'}accuracy"] = 100 * run.gather(hits, len(data.test.images)).double().mean().item()
    if data.retrieval and "" in models:
        found |= retrieved(run, models[""], data)
    return found


def candidates(labels: Tensor, classes: int, among: int) -> tuple[Tensor, Tensor]:
    """For each image the `among` classes that it is classified among, (b, among), and which of them is its own, (b,).

    Class k is in group k mod (classes / among). Every class is in one group, and each image sees that of its own.
    """
    groups = classes // among
    members = labels[:, None] % groups + groups * torch.arange(among, device=labels.device)
    return members, labels // groups


def classified(run: Run, model: nn.Module, data: Data) -> Tensor:
    """Whether each of this process's test images is classified rightly: (b,) bool."""
    mine, hits, K = run.share(len(data.test.images)), [], len(data.prompts)
    among = run.config.among or K
    with run.evaluating(model) as net:
        scores = scorer(net, data.prompts)
        for images, labels in zip(*(each[mine].split(AT_ONCE) for each in data.test), strict=True):
            choice, right = candidates(labels, K, among)
            hits.append(scores(data.look(images), choice).argmax(1) == right)
    return torch.cat(hits)


def scorer(net: nn.Module, prompts: Sequence[Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Images (b, 3, H, W) and their candidates (b, k) -> how well these fit (b, k).

    Of a model that predicts captions: the log-likelihood of a class's name, by token, given the image (the first prompt's).
    """
    if isinstance(net, CLIP):
        W = zero_shot_classifier(net, prompts)
        return lambda images, choice: (net.encode_image(images) @ W.mT).gather(1, choice)
    if isinstance(net, Supervised):
        return lambda images, choice: net.logits(images).gather(1, choice)
    names = torch.stack([tokens[0] for tokens in prompts])  # (K, T)

    def likelihoods(images: Tensor, choice: Tensor) -> Tensor:
        states, k = net.states(images), choice.shape[1]
        return -torch.stack([net.nats(states, names[choice[:, i]]) for i in range(k)], 1)

    return likelihoods


def embedded(run: Run, encode: Callable[[Tensor], Tensor], things: Tensor) -> Tensor:
    """Embeddings of all of them (n, E), each process having computed its share."""
    return run.gather(torch.cat([encode(some) for some in things[run.share(len(things))].split(AT_ONCE)]), len(things))


def recalls(I: Tensor, T: Tensor) -> dict[str, float]:
    """In %: of images whose caption is the nearest or among the 5 nearest, and of captions the same; ties count as misses."""
    similarity = I @ T.mT
    found = {}
    for what, scores in (("text", similarity), ("image", similarity.mT)):
        above = (scores >= scores.diagonal()[:, None]).sum(1) - 1
        found |= {f"{what}_recall{k}": 100 * (above < k).double().mean().item() for k in (1, 5)}
    return found


def retrieved(run: Run, model: nn.Module, data: Data) -> dict[str, float]:
    """Recalls among the held-out concepts, the mean over the sets of drawings."""
    found = []
    with run.evaluating(model) as net:
        for pairs in data.retrieval.values():
            I = embedded(run, lambda some: net.encode_image(data.look(some)), pairs.images)
            found.append(recalls(I, embedded(run, net.encode_text, pairs.tokens)))
    return {key: sum(each[key] for each in found) / len(found) for key in found[0]}


def gains(found: Mapping[str, float]) -> dict[str, float]:
    """The differences that claims speak of."""
    pairs = {
        "zero_shot_gain": ("zero_shot_accuracy", "supervised_accuracy"),
        "contrastive_gain": ("contrastive_accuracy", "words_accuracy"),
        "words_gain": ("words_accuracy", "caption_accuracy"),
    }
    return {name: found[a] - found[b] for name, (a, b) in pairs.items() if {a, b} <= {*found}}
