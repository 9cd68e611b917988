"""A slow AiT written from the equations, one slot, head and token at a time. It imports nothing of the package."""

import math

import torch


def layer_norm(vector, weight, bias, eps):
    mean = sum(vector) / len(vector)
    variance = sum((value - mean) ** 2 for value in vector) / len(vector)
    return (vector - mean) / torch.sqrt(variance + eps) * weight + bias


def gelu(vector):
    return vector * 0.5 * (1 + torch.erf(vector / math.sqrt(2)))


def softmax(logits):
    """Softmax of a list of scalars."""
    largest = max(float(logit.detach()) for logit in logits)
    exponentials = [torch.exp(logit - largest) for logit in logits]
    total = sum(exponentials)
    return [exponential / total for exponential in exponentials]


def squared_variation(values):
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return variance / (mean**2 + 1e-10)


def self_attention(weights, prefix, tokens, num_heads):
    """Tokens of one sample, a list of vectors."""
    width = len(tokens[0]) // num_heads
    outputs = []
    for token in tokens:
        heads = []
        for head in range(num_heads):
            rows = slice(head * width, (head + 1) * width)
            query = weights[prefix + "q_proj.weight"][rows] @ token
            keys = [weights[prefix + "k_proj.weight"][rows] @ other for other in tokens]
            values = [weights[prefix + "v_proj.weight"][rows] @ other for other in tokens]
            attention = softmax([query @ key / math.sqrt(width) for key in keys])
            heads.append(sum(share * value for share, value in zip(attention, values)))
        outputs.append(weights[prefix + "o_proj.weight"] @ torch.cat(heads) + weights[prefix + "o_proj.bias"])
    return outputs


def write(weights, prefix, memory, tokens, num_heads, bottleneck_size, update_rate):
    """New memory and balance loss, after the tokens of all samples (a list of vectors) have competed."""
    num_slots, width = memory.shape
    attended = [[] for _ in range(num_slots)]
    balance_loss = 0.0
    for head in range(num_heads):
        rows = slice(head * width, (head + 1) * width)
        importance = [torch.zeros(()).double() for _ in tokens]
        loads = [0.0 for _ in tokens]
        for slot in range(num_slots):
            query = weights[prefix + "query_proj.weight"][rows] @ memory[slot]
            logits = [
                query @ (weights[prefix + "key_proj.weight"][rows] @ token) / math.sqrt(width) for token in tokens
            ]
            order = sorted(range(len(tokens)), key=lambda index: -float(logits[index].detach()))
            kept = order if bottleneck_size is None else order[:bottleneck_size]
            content = torch.zeros(width).double()
            for share, index in zip(softmax([logits[index] for index in kept]), kept):
                content = content + share * (weights[prefix + "value_proj.weight"][rows] @ tokens[index])
                importance[index] = importance[index] + share
                loads[index] += 1.0
            attended[slot].append(content)
        balance_loss = balance_loss + squared_variation(importance) + squared_variation(loads)

    new_memory = []
    for slot in range(num_slots):
        written = memory[slot] + weights[prefix + "output_proj.weight"] @ torch.cat(attended[slot])
        written = layer_norm(
            written, weights[prefix + "layernorm.weight"], weights[prefix + "layernorm.bias"], eps=1e-6
        )
        row = (1 - update_rate) * memory[slot] + update_rate * written
        new_memory.append(row / torch.sqrt(sum(row**2)))
    return torch.stack(new_memory), balance_loss


def retrieve(weights, prefix, memory, token, beta, num_steps):
    patterns = [
        weights[prefix + "pattern_proj.weight"] @ slot + weights[prefix + "pattern_proj.bias"] for slot in memory
    ]
    for _ in range(num_steps):
        attention = softmax([beta * (token @ pattern) for pattern in patterns])
        token = sum(share * pattern for share, pattern in zip(attention, patterns))
    return token


def run_reference(weights, config, images, update_memory, questions=None):
    """
    Classify images with a model described by its state dict and a dictionary of its configuration.

    Returns logits, memories and balance loss (`None` when the memory was not written), all in float64 and with
    gradients to the tensors of `weights`.
    """

    def norm(vector, name, eps=config["layer_norm_eps"]):
        return layer_norm(vector, weights[name + ".weight"], weights[name + ".bias"], eps)

    patch = config["patch_size"]
    samples = []
    for index, image in enumerate(images):
        tokens = []
        for top in range(0, image.shape[1], patch):
            for left in range(0, image.shape[2], patch):
                pixels = [
                    image[channel, top + row, left + column]
                    for row in range(patch)
                    for column in range(patch)
                    for channel in range(image.shape[0])
                ]
                name = "ait.embeddings.patch_embeddings."
                token = torch.stack(pixels)
                if not config["use_vit_norms"]:
                    token = norm(token, name + "layernorm_before")
                token = weights[name + "projection.weight"] @ token + weights[name + "projection.bias"]
                if not config["use_vit_norms"]:
                    token = norm(token, name + "layernorm_after")
                tokens.append(token)
        prefix_tokens = []
        if config["pooling"] == "cls":
            prefix_tokens.append(weights["ait.embeddings.prefix_tokens.0"][0, 0])
        for register in range(config["num_register_tokens"]):
            name = f"ait.embeddings.prefix_tokens.{int(config['pooling'] == 'cls')}"
            prefix_tokens.append(weights[name][0, register])
        if questions is not None:
            name = "ait.embeddings.question_embeddings."
            token = norm(questions[index], name + "layernorm_before")
            token = weights[name + "projection.weight"] @ token + weights[name + "projection.bias"]
            prefix_tokens.append(norm(token, name + "layernorm_after"))
        tokens = prefix_tokens + tokens
        if config["position_embedding_type"] == "learned":
            positions = weights["ait.embeddings.position_embeddings"][0]
            tokens = [token + position for token, position in zip(tokens, positions)]
        samples.append(tokens)

    memories = []
    balance_loss = 0.0 if update_memory else None
    for layer in range(config["num_hidden_layers"]):
        prefix = f"ait.layers.{layer}."
        mlp_outputs, residuals = [], []
        for index, tokens in enumerate(samples):
            if config["attention_layers"] is None or layer in config["attention_layers"]:
                normed = [norm(token, prefix + "layernorm_before") for token in tokens]
                attended = self_attention(weights, prefix + "attention.", normed, config["num_attention_heads"])
                samples[index] = [token + change for token, change in zip(tokens, attended)]
            outputs, plain = [], []
            for token in samples[index]:
                hidden = weights[prefix + "mlp.fc1.weight"] @ norm(token, prefix + "layernorm_after")
                hidden = gelu(hidden + weights[prefix + "mlp.fc1.bias"])
                hidden = weights[prefix + "mlp.fc2.weight"] @ hidden + weights[prefix + "mlp.fc2.bias"]
                outputs.append(norm(hidden, prefix + "layernorm_output"))
                plain.append(hidden)
            mlp_outputs.append(outputs)
            residuals.append(plain if config["use_vit_norms"] else outputs)

        memory = weights[f"ait.memory.layer_{layer}"]
        if update_memory:
            memory, layer_balance_loss = write(
                weights,
                prefix + "workspace.write.",
                memory,
                [token for outputs in mlp_outputs for token in outputs],
                config["num_memory_heads"],
                config["bottleneck_size"],
                config["memory_update_rate"],
            )
            balance_loss = balance_loss + layer_balance_loss
            if not config["differentiable_write"]:
                memory = memory.detach()
        memories.append(memory)
        for index, outputs in enumerate(mlp_outputs):
            samples[index] = [
                token
                + residual
                + retrieve(
                    weights,
                    prefix + "workspace.retrieve.",
                    memory,
                    output,
                    config["hopfield_beta"],
                    config["num_retrieval_steps"],
                )
                for token, output, residual in zip(samples[index], outputs, residuals[index])
            ]

    logits = []
    for tokens in samples:
        if config["pooling"] == "mean":
            pooled = sum(tokens) / len(tokens)
        elif config["pooling"] == "cls":
            pooled = tokens[0]
        else:
            pooled = torch.cat(tokens)
        pooled = norm(pooled, "ait.layernorm")
        logits.append(weights["classifier.weight"] @ pooled + weights["classifier.bias"])
    return torch.stack(logits), memories, balance_loss
