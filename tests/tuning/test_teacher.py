"""Soft labels, made of some positions at a time: the KL and the gradient are those of all positions at once."""

import pytest
import torch
from helpers import tiny_model

from quip_engine.activations import predictions
from quip_engine.skeleton import Skeleton
from quip_engine.tuning import teacher as teaching
from quip_engine.tuning.teacher import Teacher

CPU = torch.device("cpu")
LENGTH = 12


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = [tiny_model(tmp_path_factory.mktemp(f"model{seed}"), "llama", seed=seed) for seed in (0, 1)]
    student = Skeleton(folders[1], CPU)
    student.load_outside()
    return folders[0], student


@pytest.mark.parametrize("labels", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("width", [1, 5, LENGTH])
def test_gradients_of_pieces_are_those_of_the_whole_aim(models, monkeypatch, labels, width):
    folder, student = models
    generator = torch.Generator().manual_seed(3)
    vocabulary = student.model.config.vocab_size
    tokens = torch.randint(vocabulary, (6, LENGTH), generator=generator)
    teacher = Teacher(folder, tokens, CPU, labels)
    for _ in teacher.read():
        pass
    some = torch.tensor([4, 1])
    hidden = torch.randn(2, LENGTH, student.model.config.hidden_size, generator=generator)
    monkeypatch.setattr(teaching, "LOGITS", 2 * width * vocabulary)
    leaf = hidden.clone().requires_grad_()
    loss = teacher.divergence(student, some, leaf, share=0.5)

    whole = hidden.clone().requires_grad_()
    with torch.enable_grad():
        log_q = predictions(student, tokens[some], whole).log_softmax(-1)
        log_p = predictions(teacher.skeleton, tokens[some], teacher.hidden[some]).log_softmax(-1).detach()
        soft = -(log_p.exp() * log_q).sum(-1)
        hard = torch.nn.functional.cross_entropy(log_q[:, :-1].mT, tokens[some][:, 1:], reduction="none")
        mixed = torch.cat([(1 - labels) * soft[:, :-1] + labels * hard, soft[:, -1:]], 1)
        (0.5 * mixed.mean()).backward()
    torch.testing.assert_close(leaf.grad, whole.grad, rtol=1e-4, atol=1e-7)
    kl = (log_p.exp() * (log_p - log_q.detach())).sum(-1).mean()
    assert loss == pytest.approx(float(kl), rel=1e-5) and loss > 0.01
