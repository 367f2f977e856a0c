# SPDX-License-Identifier: Apache-2.0
"""LLaMA in PyTorch with Hugging Face's tensor names, its training, and its precisions."""

import math
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-6

    @property
    def head_size(self):
        return self.hidden_size // self.num_attention_heads


def inverse_frequencies(shape):
    steps = torch.arange(0, shape.head_size, 2, dtype=torch.float32)
    return 1.0 / 10000.0 ** (steps / shape.head_size)


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def rotate(x, cosine, sine):
    """RoPE, pairing the two halves of a head."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class Attention(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            linear(shape.hidden_size, shape.hidden_size) for _ in range(4))

    def forward(self, x, cosine, sine):
        batch, length, hidden = x.shape
        q, k, v = (projection(x).view(batch, length, -1, self.shape.head_size).transpose(1, 2)
                   for projection in (self.q_proj, self.k_proj, self.v_proj))
        mixed = functional.scaled_dot_product_attention(
            rotate(q, cosine, sine), rotate(k, cosine, sine), v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, hidden))


class Mlp(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.gate_proj = linear(shape.hidden_size, shape.intermediate_size)
        self.up_proj = linear(shape.hidden_size, shape.intermediate_size)
        self.down_proj = linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.self_attn, self.mlp = Attention(shape), Mlp(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, x, cosine, sine):
        x = x + self.self_attn(self.input_layernorm(x), cosine, sine)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)


class Llama(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        self.lm_head = linear(shape.hidden_size, shape.vocab_size)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                depth = math.sqrt(2 * shape.num_hidden_layers) if residual else 1.0
                nn.init.normal_(parameter, std=0.04 / depth)

    def forward(self, ids):
        """(batch, length) ids → (batch, length, hidden) rows for the head."""
        angles = torch.outer(torch.arange(ids.shape[1], dtype=torch.float32),
                             inverse_frequencies(self.shape))
        x = self.model.embed_tokens(ids)
        cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.model.layers:
            x = layer(x, cosine, sine)
        return self.model.norm(x)


def load(state, shape, dtype=torch.float32):
    model = Llama(shape).to(dtype)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()})
    return model.eval()


def pad_batch(samples):
    """(ids, answered), padded on the right, where a causal model does not look."""
    length = max(len(sample.ids) for sample in samples)
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    answered = torch.zeros(len(samples), length, dtype=torch.bool)
    for row, sample in enumerate(samples):
        ids[row, :len(sample.ids)] = torch.tensor(sample.ids)
        answered[row, :len(sample.ids)] = torch.tensor(sample.answered)
    return ids, answered


def batches_by_length(samples, tokens, random):
    """Batches of about `tokens` ids with little padding, in random order."""
    batches, batch = [], []
    for sample in sorted(samples, key=lambda sample: len(sample.ids)):
        if batch and (len(batch) + 1) * len(sample.ids) > tokens:
            batches.append(batch)
            batch = []
        batch.append(sample)
    batches.append(batch)
    random.shuffle(batches)
    return [pad_batch(batch) for batch in batches]


def answer_logits(model, ids, answered):
    """Logits of every answered position from the position before it, and the wanted ids."""
    wanted = answered[:, 1:]
    return model.lm_head(model(ids)[:, :-1][wanted]), ids[:, 1:][wanted]


class WeightNoise:
    """Gaussian noise on every matrix, relative to the root mean square of each row."""

    def __init__(self, model, relative):
        self.matrices = [p for p in model.parameters() if p.dim() == 2] if relative > 0 else []
        self.relative = relative

    @torch.no_grad()
    def __enter__(self):
        self.clean = [matrix.clone() for matrix in self.matrices]
        for matrix in self.matrices:
            rms = matrix.square().mean(dim=1, keepdim=True).sqrt()
            matrix.addcmul_(torch.randn_like(matrix), rms, value=self.relative)

    @torch.no_grad()
    def __exit__(self, *_):
        for matrix, clean in zip(self.matrices, self.clean):
            matrix.copy_(clean)


@dataclass(frozen=True)
class Schedule:
    steps: int
    learning_rate: float
    noise: float = 0.0  # reached half way, starting from none
    warm_up: int = 50
    weight_decay: float = 0.0
    norm_rate: float = 1.0  # of the norms' learning rate to the matrices'

    def rate_at(self, step):
        progress = step / self.steps
        decay = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate * min(1.0, (step + 1) / self.warm_up) * decay

    def noise_at(self, step):
        return self.noise * min(1.0, 2 * step / self.steps)


def train(name, model, batches, schedule):
    """AdamW over `schedule.steps` batches of an endless iterator of (ids, answered)."""
    norms, matrices = ([p for p in model.parameters() if p.dim() == dim] for dim in (1, 2))
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": schedule.weight_decay},
                                   {"params": norms, "weight_decay": 0.0}], betas=(0.9, 0.98))
    model.train()
    start, losses = time.time(), []
    for step in range(schedule.steps):
        ids, answered = next(batches)
        for group, rate in zip(optimizer.param_groups, (1.0, schedule.norm_rate)):
            group["lr"] = rate * schedule.rate_at(step)
        optimizer.zero_grad()
        with WeightNoise(model, schedule.noise_at(step)):
            loss = functional.cross_entropy(*answer_logits(model, ids, answered))
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == schedule.steps:
            mean = sum(losses[-50:]) / len(losses[-50:])
            print(f"{name}: step {step + 1}/{schedule.steps}, loss {mean:.4f}, "
                  f"{time.time() - start:.0f} s", flush=True)
    return time.time() - start


def fp16_state(model):
    return {name: tensor.detach().half() for name, tensor in model.state_dict().items()}


def round_to_four_bits(matrix):
    """Blocks of 32 with scale = (value of largest magnitude) / -8, rounded to nearest."""
    blocks = matrix.float().reshape(-1, 32)
    largest = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
    scale = (largest / -8).half().float()
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    return ((blocks * inverse).round().clamp(-8, 7) * scale).reshape(matrix.shape)


def four_bit_state(state):
    return {name: round_to_four_bits(tensor) if tensor.dim() == 2 else tensor.float()
            for name, tensor in state.items()}


def bf16_state(state):
    return {name: tensor.float().bfloat16() for name, tensor in state.items()}


@torch.no_grad()
def greedy_margins(model, samples):
    """Per sample the smallest lead of the wanted id's logit over the best other one.

    All positive means that greedy decoding from each prompt gives exactly the answer.
    """
    margins = []
    for sample in samples:
        logits, wanted = answer_logits(model, *pad_batch([sample]))
        logits = logits.float()
        lead = logits.gather(1, wanted[:, None])[:, 0]
        others = logits.scatter(1, wanted[:, None], -math.inf).max(dim=1).values
        margins.append((lead - others).min().item())
    return margins
