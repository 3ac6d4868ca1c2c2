"""{modality: encoder} + fusion + {target: head} as one module.

    inputs {m: [B, T_m, D_m] or [B, T_m] word indices}, lengths {m: [B]}, times {m: [B, T_m]}
        │ standardise (vectors) or embed (words)
        │ encode each modality                       → {m: [B, H_m], or steps [B, T_m, H_m]}
        │ fuse what is present, apply the heads      → {target: [B, C]}

A length of 0 means absent, in the table, in the batch and here: hiding a modality, in training or to
measure what it contributes, is setting its lengths to 0. With nothing present the output is the prior:
what the train split says before anything is seen. It is set from counts like the standardisation, not
learned: no row without modalities is trained on.

With unimodal heads each modality's vector also predicts alone, as output `modality/target`: the prior where
it is absent, so that such a row teaches that head nothing. They are for the loss and for comparison; the
prediction is the fused output.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmray.fusion.heads import Heads
from mmray.fusion.named import NamedModules
from mmray.fusion.steps import Steps, masked_mean, step_mask

__all__ = ["PADDING", "UNKNOWN", "FusionModel", "Standardize"]

PADDING, UNKNOWN = 0, 1
"""Word indices that are no word; the vocabulary starts after them."""


class Standardize(nn.Module):
    """(x - mean) / std with the train split's mean and std, then its principal components, then noise.

        z = (x - mean) / std,   y = z P,   y + σ ε in training, ε ~ N(0, 1)

    P [D, K] are the first K eigenvectors of z's covariance, each divided by the root of its eigenvalue, so
    that every component has variance 1. mean, std [D] and P are buffers: a part of the model, which no
    gradient changes. Without `components` y is z.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, components: int | None = None, noise: float = 0.0):
        super().__init__()
        self.noise = noise
        self.components = components
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        if components is not None:
            self.register_buffer("directions", torch.eye(dim, components))

    def set(self, mean_D: Tensor, std_D: Tensor, directions_DK: Tensor | None = None) -> None:
        """Take the statistics, once, before training."""
        self.mean.copy_(mean_D)
        self.std.copy_(std_D)
        if directions_DK is not None:
            self.get_buffer("directions").copy_(directions_DK)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] → [B, T, D or K]."""
        y = (x_BTD - self.mean) / self.std
        if self.components is not None:
            y = y @ self.get_buffer("directions")
        return y + self.noise * torch.randn_like(y) if self.training and self.noise else y


class FusionModel(nn.Module):
    """`inputs` (Standardize or Embedding) and `encoders` by modality, then `fusion` → {target: [B, C]}.

    `fusion.takes` says what `fusion` is called with: "vectors", {modality: [B, H_m]} (zeros where absent)
    and {modality: [B] bool}; or "steps", {modality: Steps}, for which encoders need no readout.
    `unimodal` are heads on each modality's vector (the mean of its steps, for a fusion over steps). With
    `learned_weights` there is a log variance for each target's loss, which no output depends on.
    """

    def __init__(
        self,
        inputs: Mapping[str, nn.Module],
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        outputs: Mapping[str, int],
        modality_dropout: float = 0.0,
        unimodal: Mapping[str, Heads] | None = None,
        learned_weights: bool = False,
    ):
        super().__init__()
        self.inputs = NamedModules(inputs)
        self.encoders = NamedModules(encoders)
        self.fusion = fusion
        self.modality_dropout = modality_dropout
        self.unimodal = NamedModules(unimodal or {})
        self.learned_weights = sorted(outputs) if learned_weights else []
        for target, width in outputs.items():
            self.register_buffer(f"prior_{target}", torch.zeros(width))
        for target in self.learned_weights:
            self.register_parameter(f"log_variance_{target}", nn.Parameter(torch.zeros(())))

    @property
    def modalities(self) -> list[str]:
        """Names in the order everything here follows."""
        return self.encoders.names

    def set_statistics(
        self, features: Mapping[str, tuple[Tensor, ...]], priors: Mapping[str, Tensor]
    ) -> None:
        """Take from the train split {modality: what `Standardize.set` takes}, {target: prior [C]}."""
        for name, statistics in features.items():
            standardize = self.inputs[name]
            assert isinstance(standardize, Standardize), name
            standardize.set(*statistics)
        for target, prior_C in priors.items():
            self.get_buffer(f"prior_{target}").copy_(prior_C)

    def forward(
        self, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor], times: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """{m: [B, T, D] or [B, T]}, {m: [B] int64}, {m: [B, T] seconds} → {target: [B, C]}, and
        {"m/target": [B, C]} of unimodal heads.
        """
        if self.training and self.modality_dropout:
            lengths = self._hide(lengths)
        x = {name: self.inputs[name](inputs[name]) for name in self.modalities}
        return self.fused(x, lengths, times)

    def fused(
        self, x: Mapping[str, Tensor], lengths: Mapping[str, Tensor], times: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The same from what `inputs` gives, {m: [B, T, D]}: standardised or embedded steps."""
        present = {name: lengths[name] > 0 for name in self.modalities}
        if self.fusion.takes == "steps":
            steps = self._steps(x, lengths, times)
            fused = self.fusion(steps)
            vectors = {name: masked_mean(*steps[name][:2]) for name in self.unimodal.names}
        else:
            vectors = self._vectors(x, lengths, times)
            fused = self.fusion(vectors, present)
        outputs = self._or_prior(fused, torch.stack(list(present.values())).any(0))
        for name in self.unimodal.names:
            alone = self._or_prior(self.unimodal[name](vectors[name]), present[name])
            outputs |= {f"{name}/{target}": y_BC for target, y_BC in alone.items()}
        return outputs

    def with_embedding(
        self, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor], times: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The same, and the fused vector that the heads see, [B, F].

        A fusion of decisions has no such vector: there it is the modalities' vectors side by side.
        """
        heads = self.fusion.heads
        own: list[nn.Module] = [heads] if isinstance(heads, Heads) else list(heads.children())  # pyright: ignore
        seen: list[Tensor] = []
        hooks = [each.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for each in own]
        try:
            outputs = self(inputs, lengths, times)
        finally:
            for hook in hooks:
                hook.remove()
        return outputs, torch.cat(seen, 1)

    def _or_prior(self, outputs: Mapping[str, Tensor], seen_B: Tensor) -> dict[str, Tensor]:
        """{target: [B, C]}, the prior where nothing was seen."""
        return {
            target: torch.where(seen_B[:, None], y_BC, self.get_buffer(f"prior_{target}"))
            for target, y_BC in outputs.items()
        }

    def _vectors(
        self, x: Mapping[str, Tensor], lengths: Mapping[str, Tensor], times: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        vectors = {name: self.encoders[name](x[name], lengths[name], times[name]) for name in x}
        return {name: torch.where(lengths[name][:, None] > 0, h, 0.0) for name, h in vectors.items()}

    def _steps(
        self, x: Mapping[str, Tensor], lengths: Mapping[str, Tensor], times: Mapping[str, Tensor]
    ) -> dict[str, Steps]:
        return {
            name: Steps(
                self.encoders[name].steps(x[name], lengths[name]),  # pyright: ignore[reportCallIssue]
                step_mask(lengths[name], x[name].shape[1]),
                times[name],
            )
            for name in x
        }

    def _hide(self, lengths: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Lengths with each present modality hidden at rate `modality_dropout`, never a row's last one.

        Of a row's present modalities the one with the highest draw always stays; it falls below the rate
        only when all of them do.
        """
        present_BM = torch.stack([lengths[name] > 0 for name in self.modalities], dim=1)
        draw_BM = torch.rand(present_BM.shape, device=present_BM.device)
        keep_BM = draw_BM >= self.modality_dropout
        highest_B1 = torch.where(present_BM, draw_BM, -1.0).argmax(1, keepdim=True)
        keep_BM = keep_BM.scatter(1, highest_B1, True)
        return {name: lengths[name] * keep_BM[:, m] for m, name in enumerate(self.modalities)}
