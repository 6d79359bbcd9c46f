"""The `config.json` of a small model, for tests of what is read from one."""

CONFIG = {
    "model_type": "qwen3",
    "vocab_size": 18,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}
