"""penstock.vllm under a real engine of vLLM: a tiny random Llama on a CPU, greedy."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any, Callable, Iterator

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1",
}  # fmt: skip

import pytest  # noqa: E402
import torch  # noqa: E402

import penstock  # noqa: E402

BLOCK = 32
PROMPT = [(i * 37 + 11) % 250 for i in range(150)]
CONNECTOR = {"kv_connector": "RecordedConnector", "kv_connector_module_path": "recorded_vllm", "kv_role": "kv_both",
             "kv_load_failure_policy": "recompute"}


@pytest.fixture(scope="session", autouse=True)
def entry_points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an installed wheel of Penstock tells vLLM, before vLLM looks."""
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    folder = tmp_path_factory.mktemp("site") / "penstock-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: penstock\nVersion: 0\n")
    points = project["entry-points"]["vllm.general_plugins"]
    lines = "".join(f"{name} = {target}\n" for name, target in points.items())
    (folder / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{lines}")
    sys.path.append(str(folder.parent))
    return folder.parent


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=1, head_dim=32, max_position_embeddings=1024, tie_word_embeddings=False)
    llama = LlamaForCausalLM(config)
    for parameter in llama.parameters():
        parameter.data.normal_(0, 0.3)
    llama.save_pretrained(folder)
    return folder


@pytest.fixture
def make(model: Path) -> Iterator[Callable[..., Any]]:
    engines: list[Any] = []

    def close() -> None:
        while engines:
            engines.pop().llm_engine.engine_core.shutdown()
        gc.collect()

    def make_one(**options: Any) -> Any:
        """An engine; the one before ends, for a process has one worker's connector."""
        from vllm import LLM

        close()
        engines.append(LLM(str(model), skip_tokenizer_init=True, enforce_eager=True, dtype="float32", block_size=BLOCK,
                           max_model_len=512, **options))
        return engines[-1]

    yield make_one
    close()


def generate(engine: Any, *prompts: list[int], tokens: int = 16) -> tuple[list[list[int]], list[int]]:
    """New tokens of each prompt, and how many of its tokens were not computed but cached."""
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=tokens, temperature=0, detokenize=False, ignore_eos=True)
    outputs = engine.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)
    return [list(o.outputs[0].token_ids) for o in outputs], [o.num_cached_tokens for o in outputs]


def until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"not within 20 s: {what}"
        time.sleep(0.01)


def stored(store: Any) -> list[Any]:
    return list(store.list("vllm/"))


def test_the_same_tokens_from_saved_blocks(make, store):
    baseline, _ = generate(make(), PROMPT)
    one = make(kv_transfer_config=CONNECTOR)
    assert generate(one, PROMPT) == (baseline, [0])
    until(lambda: len(stored(store)) == (len(PROMPT) + 15) // BLOCK, "all full blocks are stored")
    assert not any(info.keep for info in stored(store))
    assert one.reset_prefix_cache()
    assert generate(one, PROMPT) == (baseline, [4 * BLOCK])
    assert generate(make(kv_transfer_config=CONNECTOR), PROMPT) == (baseline, [4 * BLOCK])  # another engine


def test_corrupted_blocks_change_the_output(make, store):
    one = make(kv_transfer_config=CONNECTOR)
    baseline, _ = generate(one, PROMPT)
    until(lambda: len(stored(store)) == 5, "stored")
    for info in stored(store):
        store.put(info.name, torch.randn(info.nbytes // 4).view(torch.uint8), keep=False)
    assert one.reset_prefix_cache()
    tokens, cached = generate(one, PROMPT)
    assert cached == [4 * BLOCK] and tokens != baseline


def test_only_the_common_prefix_is_loaded(make, store):
    other = PROMPT[: 2 * BLOCK + 7] + [9] * 60
    baseline, _ = generate(make(), other)
    one = make(kv_transfer_config=CONNECTOR)
    generate(one, PROMPT)
    until(lambda: len(stored(store)) == 5, "stored")
    assert one.reset_prefix_cache()
    assert generate(one, other) == (baseline, [2 * BLOCK])


def test_what_the_engine_has_itself_is_not_loaded_again(make, store):
    baseline, _ = generate(make(), PROMPT)
    one = make(kv_transfer_config=CONNECTOR)
    generate(one, PROMPT)
    until(lambda: len(stored(store)) == 5, "stored")
    assert one.reset_prefix_cache()
    generate(one, PROMPT[: 2 * BLOCK + 1])  # of which two blocks are loaded
    assert generate(one, PROMPT) == (baseline, [4 * BLOCK])


def test_generated_blocks_are_saved_and_loaded_in_the_next_turn(make, store):
    one = make(kv_transfer_config=CONNECTOR)
    (first,), _ = generate(one, PROMPT, tokens=80)
    until(lambda: len(stored(store)) == (len(PROMPT) + 79) // BLOCK, "stored")
    turn = PROMPT + first + [3, 4, 5]
    assert one.reset_prefix_cache()
    loaded, cached = generate(one, turn)
    assert cached == [7 * BLOCK] and generate(make(), turn)[0] == loaded


def test_prompts_that_are_computed_in_chunks(make, store):
    prompts = [[(i * k + 1) % 250 for i in range(100 + 40 * k)] for k in range(1, 6)]
    baseline, _ = generate(make(), *prompts)
    options = {"max_num_batched_tokens": 64, "max_num_seqs": 4, "enable_chunked_prefill": True}
    one = make(kv_transfer_config=CONNECTOR, **options)
    assert generate(one, *prompts)[0] == baseline
    blocks = sum((len(p) + 15) // BLOCK for p in prompts)
    until(lambda: len(stored(store)) == blocks, "stored")
    assert one.reset_prefix_cache()
    assert generate(one, *prompts) == (baseline, [(len(p) - 1) // BLOCK * BLOCK for p in prompts])


def test_requests_that_are_preempted_and_resumed(make, store):
    prompts = [[(i * k + k) % 250 for i in range(130)] for k in range(1, 5)]
    baseline, _ = generate(make(), *prompts, tokens=100)
    one = make(kv_transfer_config=CONNECTOR, num_gpu_blocks_override=20, max_num_seqs=4)
    scheduler = one.llm_engine.engine_core.engine_core.scheduler
    preempted: list[str] = []
    preempt = scheduler._preempt_request
    scheduler._preempt_request = lambda request, *rest, **more: (preempted.append(request.request_id), preempt(request, *rest, **more))[1]
    assert generate(one, *prompts, tokens=100)[0] == baseline and preempted
    assert not one.llm_engine.engine_core.engine_core.scheduler.connector._scheduler._tracked


def test_a_block_that_is_evicted_after_its_lookup_is_computed_again(make, store, monkeypatch):
    from penstock.kv_cache import KVCache

    one = make(kv_transfer_config=CONNECTOR)
    baseline, _ = generate(one, PROMPT)
    until(lambda: len(stored(store)) == 5, "stored")
    lookup = KVCache.longest_prefix
    evicted: list[str] = []

    def then_evict(self: Any, keys: list[str]) -> int:
        count = lookup(self, keys)
        if count > 2 and not evicted:
            evicted.append(keys[2])
            assert store.delete(self.name(keys[2]))
        return count

    monkeypatch.setattr(KVCache, "longest_prefix", then_evict)
    assert one.reset_prefix_cache()
    assert generate(one, PROMPT)[0] == baseline and evicted


def test_roles(make, store):
    producer = make(kv_transfer_config=CONNECTOR | {"kv_role": "kv_producer"})
    baseline, _ = generate(producer, PROMPT)
    until(lambda: len(stored(store)) == 5, "the producer's blocks are stored")
    assert producer.reset_prefix_cache()
    assert generate(producer, PROMPT) == (baseline, [0])
    consumer = make(kv_transfer_config=CONNECTOR | {"kv_role": "kv_consumer"})
    assert generate(consumer, PROMPT) == (baseline, [4 * BLOCK])
    generate(consumer, PROMPT[::-1])
    consumer.llm_engine.engine_core.shutdown()  # puts what is pending
    assert len(stored(store)) == 5


def test_resetting_the_connector_deletes_the_blocks(make, store):
    one = make(kv_transfer_config=CONNECTOR)
    generate(one, PROMPT)
    until(lambda: len(stored(store)) == 5, "stored")
    assert one.reset_prefix_cache(reset_connector=True)
    assert stored(store) == [] and generate(one, PROMPT)[1] == [0]


def test_without_the_store_it_computes(make, node, store, caplog):
    one = make(kv_transfer_config=CONNECTOR)
    baseline, _ = generate(one, PROMPT)
    until(lambda: len(stored(store)) == 5, "stored")
    node.close()
    assert one.reset_prefix_cache()
    assert generate(one, PROMPT) == (baseline, [0])
    assert generate(make(kv_transfer_config=CONNECTOR), PROMPT) == (baseline, [0])  # it was never there


# --- weights ---


@pytest.fixture
def weights(model: Path, store: Any) -> dict[str, Any]:
    """The checkpoint, brought in as the documents say."""
    from safetensors.torch import load_file

    program = Path(penstock.__file__).resolve().parents[2] / "bin" / "penstock"
    subprocess.run([str(program), "import", "--address", store.address, "--prefix", "models/tiny", str(model)], check=True)
    return load_file(model / "model.safetensors")


def test_weights_come_from_the_store(make, model, store, weights):
    baseline, _ = generate(make(), PROMPT)
    (model / "model.safetensors").rename(model / "elsewhere")
    try:
        one = make(load_format="penstock", model_loader_extra_config={"prefix": "models/tiny"})
        assert generate(one, PROMPT)[0] == baseline
    finally:
        (model / "elsewhere").rename(model / "model.safetensors")


def test_other_weights_are_another_model(make, store, weights):
    baseline, _ = generate(make(), PROMPT)
    store.put("models/tiny/lm_head.weight", weights["lm_head.weight"].flip(0))
    one = make(load_format="penstock", model_loader_extra_config={"prefix": "models/tiny"})
    assert generate(one, PROMPT)[0] != baseline


def test_two_workers_in_processes_of_their_own(make, model, store, weights, entry_points):
    baseline, _ = generate(make(), PROMPT)
    environment = os.environ | {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:{entry_points}"}
    script = Path(__file__).with_name("vllm_two_workers.py")
    done = subprocess.run([sys.executable, str(script), str(model)], env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"saved"')))
    assert told["saved"] == [baseline, [0]] and told["loaded"] == [baseline, [4 * BLOCK]]
    prefixes = [name.rsplit("/", 1)[0] for name in told["names"]]
    assert sorted(map(prefixes.count, set(prefixes))) == [5, 5]  # each worker its part


@pytest.mark.parametrize(
    "settings, error",
    [({"prefix": "models/none"}, "there is no tensor under models/none/"), ({}, "prefix: is None"),
     ({"prefix": "models/tiny", "adress": "x"}, "knows no \\['adress'\\]"), ({"prefix": "models/part"}, "lacks weights of")],
)  # fmt: skip
def test_weights_that_are_not_there(make, store, weights, settings, error):
    for name, tensor in weights.items():
        if "lm_head" not in name:
            store.put(f"models/part/{name}", tensor)
    with pytest.raises(Exception, match=error):
        make(load_format="penstock", model_loader_extra_config=settings)
