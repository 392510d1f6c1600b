"""Small random models: every architecture keeps what it is, at a size that loads at once."""

import pytest
import torch
import transformers as T
from conftest import byte_level_tokenizer

from align.errors import AlignError
from align.rehearsal.models import shrink, small_model

BIG = {
    "llama3": lambda: T.LlamaConfig(
        vocab_size=128256, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
    ),
    "llama2": T.LlamaConfig,
    "qwen2": lambda: T.Qwen2Config(num_attention_heads=28, num_key_value_heads=4, hidden_size=3584, num_hidden_layers=28),
    "qwen3": T.Qwen3Config,
    "qwen3-moe": T.Qwen3MoeConfig,
    "mistral": T.MistralConfig,
    "mixtral": T.MixtralConfig,
    "gemma2": T.Gemma2Config,
    "gemma3": T.Gemma3TextConfig,
    "gpt2": T.GPT2Config,
    "gpt-neox": T.GPTNeoXConfig,
    "gpt-oss": T.GptOssConfig,
    "falcon": T.FalconConfig,
    "opt": T.OPTConfig,
    "deepseek-v3": T.DeepseekV3Config,
    "lfm2": T.Lfm2Config,
    "phi3-long": lambda: T.Phi3Config(
        rope_parameters={
            "rope_type": "longrope",
            "long_factor": [1.0] * 48,
            "short_factor": [1.0] * 48,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 4096,
        }
    ),
}


@pytest.mark.parametrize("family", BIG)
def test_a_small_model_of_each_architecture_runs_and_is_what_the_big_one_is(family):
    big, small = BIG[family](), BIG[family]()
    shrink(small, 400)
    model = T.AutoModelForCausalLM.from_config(small, dtype=torch.float32)
    assert model(input_ids=torch.arange(12)[None]).logits.isfinite().all()
    assert model.num_parameters() < 12_000_000
    assert small.model_type == big.model_type
    assert small.max_position_embeddings == big.max_position_embeddings
    for same in ("sliding_window", "tie_word_embeddings", "hidden_act", "eos_token_id", "attn_logit_softcapping", "rms_norm_eps"):
        assert getattr(small, same, None) == getattr(big, same, None), same
    assert set(getattr(small, "layer_types", None) or []) == set(getattr(big, "layer_types", None) or [])


def test_heads_stay_grouped():
    configs = {name: BIG[name]() for name in ("llama3", "llama2", "qwen2")}
    for config in configs.values():
        shrink(config, 400)
    grouped = {name: (config.num_attention_heads, config.num_key_value_heads) for name, config in configs.items()}
    assert grouped == {"llama3": (4, 1), "llama2": (4, 4), "qwen2": (4, 1)}


@pytest.fixture
def described(tmp_path):
    """A model's folder with a configuration and a tokenizer, and no weights."""
    tokenizer = byte_level_tokenizer()
    T.LlamaConfig(vocab_size=32000, eos_token_id=2, pad_token_id=0, bos_token_id=None).save_pretrained(tmp_path / "big")
    tokenizer.save_pretrained(tmp_path / "big")
    return tmp_path / "big"


def test_a_small_model_needs_no_weights_and_keeps_tokenizer_and_template(described, tmp_path):
    parameters = small_model(str(described), tmp_path / "small")
    model = T.AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    tokenizer = T.AutoTokenizer.from_pretrained(tmp_path / "small")
    assert model.num_parameters() == parameters < 1_000_000
    assert tokenizer.get_vocab() == byte_level_tokenizer().get_vocab()
    assert tokenizer.chat_template == byte_level_tokenizer().chat_template
    assert model.config.vocab_size >= len(tokenizer)


def test_a_small_reward_model_gives_one_number(described, tmp_path):
    small_model(str(described), tmp_path / "small", reward=True)
    model = T.AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    assert model(input_ids=torch.arange(8)[None]).logits.shape[0] == 1


def test_an_adapter_becomes_a_small_model_of_its_base(described, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{described}"}}')
    byte_level_tokenizer().save_pretrained(adapter)
    small_model(str(adapter), tmp_path / "small")
    assert T.AutoConfig.from_pretrained(tmp_path / "small").model_type == "llama"


def test_a_model_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(AlignError, match="nobody/nothing"):
        small_model("nobody/nothing", tmp_path / "small")
