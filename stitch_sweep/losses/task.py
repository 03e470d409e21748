"""Losses of the stitched network's predictions, with hard labels and with soft labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from stitch_sweep.core.bounds import Above0
from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.base import Loss, LossContext, LossInputs, Teacher


@LOSSES.register("task")
class Task(Loss):
    r"""Cross-entropy of the stitched network's predictions with the labels, averaged over images.

    ```math
    L = -\frac{1}{B} \sum_b \log \operatorname{softmax}(z_b)[y_b], \qquad z = B_{>j}(S(A_{\le i}(x)))
    ```

    The loss measures whether the receiver can use the sender's representation, not whether the stitched
    representation is similar to the expected one.

    Use: to test whether the receiver can use the sender's representation.

    Assumes: labels of the images.

    Range: 0 and more. In nats.

    Cost: one pass through the rest of the receiver.

    Source: Bansal, Nakkiran and Barak 2021, arXiv 2106.07682.
    """

    needs_logits: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 0.03, "": 0.03}

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Compute the loss, a scalar; needs `logits` [B, K] and `labels` [B]."""
        assert inputs.logits is not None
        return functional.cross_entropy(inputs.logits, inputs.labels)


@LOSSES.register("soft_task")
class SoftTask(Loss):
    r"""KL divergence of the stitched network's softened predictions from those of a teacher.

    ```math
    L = \frac{T^2}{B} \sum_b \mathrm{KL}\left( \operatorname{softmax}(t_b / T) \,\Vert\, \operatorname{softmax}(z_b / T) \right)
    ```

    t are the teacher's logits for the same images; the teacher is the unstitched receiver or sender.
    The loss measures whether the stitched network's predictions equal the teacher's, mistakes included;
    it is 0 if they do. Its gradient is that of the cross-entropy with soft labels. The factor T^2 keeps
    the size of the gradient when T grows.

    Use: to test whether the stitched network makes the same predictions as the teacher.

    Assumes: a teacher with logits for the same classes.

    Range: 0 and more. In nats.

    Cost: one pass through the rest of the receiver, and one through the teacher.

    Source: Hinton, Vinyals and Dean 2015, arXiv 1503.02531. As a loss for stitching, with the receiver
    as teacher, it is "soft label matching" in Athanasiadis et al. 2025, arXiv 2505.20142.

    Args:
        context: facts of the cell; not used.
        teacher: the network whose predictions are the soft labels: `receiver` or `sender`.
        temperature: T; above 1, the teacher's ranking of the wrong classes gets more weight.
    """  # noqa: E501

    needs_logits: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 0.03, "": 0.03}

    def __init__(
        self,
        context: LossContext,
        *,
        teacher: Teacher = "receiver",
        temperature: Above0 = 1.0,
    ) -> None:
        super().__init__(context)
        self.teacher = teacher
        self.temperature = temperature

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Compute the loss, a scalar; needs `logits` and the teacher's logits, both [B, K]."""
        taught = inputs.expected_logits if self.teacher == "receiver" else inputs.sender_logits
        assert inputs.logits is not None
        assert taught is not None
        divergence = functional.kl_div(
            functional.log_softmax(inputs.logits / self.temperature, dim=1),
            functional.log_softmax(taught / self.temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * self.temperature**2
