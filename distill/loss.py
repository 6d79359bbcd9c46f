"""The loss of a student on text: cross-entropy over completion tokens, and over nothing else.

The head of a language model is as wide as its vocabulary, so its outputs for a whole batch are by
far the largest thing of a step. Here only positions with a loss meet the head, and a piece at a
time, with the gradient taken at once: the outputs of all positions never exist together. The
exception is a head that is more than a product (Gemma 2, Cohere, Granite): there the model itself
makes its outputs, for every position of a micro-batch at once.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.text import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NO_LOSS = -100
PIECE_BYTES = 2**26
"""Most that the head's outputs take at a time [bytes]."""


def collate(samples: Sequence[Sample], device: str) -> tuple[Tensor, Tensor]:
    """Samples as a rectangle, padded on the right: ids, and for each position the token to say.

    No attention mask: in a causal model no token sees what is to the right of it, so padding there
    changes nothing, and attention without a mask takes the fast kernels. A test holds this.
    """
    longest = max(len(sample.input_ids) for sample in samples)
    ids, labels = [], []
    for sample in samples:
        tokens = sample.input_ids
        # Position t says token t + 1. The first token of all is said by nobody.
        first = max(1, sample.prompt_tokens)
        padding = longest - len(tokens)
        ids.append(tokens + [0] * padding)
        labels.append([NO_LOSS] * (first - 1) + tokens[first:] + [NO_LOSS] * (padding + 1))
    return torch.tensor(ids, device=device), torch.tensor(labels, device=device)


def tokens_with_loss(sample: Sample) -> int:
    """How many tokens of a sample the student is taught."""
    return len(sample.input_ids) - max(1, sample.prompt_tokens)


class CompletionLoss(nn.Module):
    """A causal language model that answers with the sum of its losses instead of its outputs."""

    def __init__(self, model: "PreTrainedModel", head_is_plain: bool) -> None:
        super().__init__()
        self.model = model
        self._head_is_plain = head_is_plain

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Sum of cross-entropies over all positions with a label [nats], in float32."""
        taught = labels != NO_LOSS
        if not self._head_is_plain:
            logits = self.model(input_ids=ids, use_cache=False).logits[taught]
            return functional.cross_entropy(logits.float(), labels[taught], reduction="sum")
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        head: Tensor = self.model.get_output_embeddings().weight
        loss: Tensor = _PiecewiseLoss.apply(hidden[taught], head, labels[taught])  # type: ignore[no-untyped-call]
        return loss


@torch.no_grad()
def head_is_plain(model: "PreTrainedModel") -> bool:
    """Whether the outputs are the last hidden states times the head's weights, and nothing more.

    Some models scale or bend them afterwards (Gemma, Cohere, Granite). Tried on a few tokens rather
    than looked up, so that it also holds for a model nobody has thought of.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        return False
    ids = torch.arange(4, device=head.weight.device).unsqueeze(0)
    was_training = model.training
    model.eval()
    theirs = model(input_ids=ids, use_cache=False).logits
    ours = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    model.train(was_training)
    return torch.allclose(theirs, ours)


class _PiecewiseLoss(torch.autograd.Function):
    """Sum of cross-entropies of `hidden @ weight.T`; its gradient is taken on the way forward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        # Under autocast `hidden` may arrive in either format; products run in its chosen one.
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        states, head = hidden.to(dtype or hidden.dtype), weight.to(dtype or weight.dtype)
        piece = max(64, PIECE_BYTES // (4 * weight.shape[0]))
        loss = torch.zeros((), device=hidden.device)
        states_grad = torch.empty_like(states)
        head_grad = torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, len(labels), piece):
            here = slice(start, start + piece)
            said = labels[here].unsqueeze(1)
            log_odds = (states[here] @ head.T).float().log_softmax(-1)
            loss -= log_odds.gather(1, said).sum()
            # The derivative of -log softmax: the probabilities, less 1 at the label.
            slope = log_odds.exp_().scatter_add_(1, said, -torch.ones_like(said, dtype=torch.float))
            slope = slope.to(states.dtype)
            states_grad[here] = slope @ head
            head_grad += slope.T @ states[here]
        ctx.save_for_backward(states_grad.to(hidden.dtype), head_grad.to(weight.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        states_grad, head_grad = ctx.saved_tensors
        return states_grad * grads[0], head_grad * grads[0], None
