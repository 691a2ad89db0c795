"""From bytes to slots: how many a layer may hold for a sequence's cache to take so many bytes."""

from transformers import PretrainedConfig

from scope.decoding import DecodingStrategy

CHANNEL_BYTES = 4  # float32


def slot_bytes(config: PretrainedConfig, itemsize: int, granularity: str, decode: DecodingStrategy) -> int:
    """Bytes of one token in one layer, all heads that are stored: key, value, and what the strategy remembers of it.

    itemsize: bytes of a number in a key.
    """
    text = config.get_text_config(decoder=True)
    queries: int = text.num_attention_heads
    heads = queries if granularity == "query_head" else (getattr(text, "num_key_value_heads", None) or queries)
    dim: int = getattr(text, "head_dim", None) or text.hidden_size // queries
    return heads * (2 * dim * itemsize + CHANNEL_BYTES * len(decode.channels))


def slots_within(nbytes: int, config: PretrainedConfig, of_slot: int) -> int:
    """Slots that each layer may hold at once, where a sequence's cache may take `nbytes` in all layers together."""
    layers: int = config.get_text_config(decoder=True).num_hidden_layers
    return nbytes // (layers * of_slot)
