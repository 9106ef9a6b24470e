"""vllm_two_workers.py MODEL: an engine with two tensor-parallel workers, each a process; prints what it generated, as JSON."""

from __future__ import annotations

import json
import sys
import time

import penstock


def main() -> None:
    from test_real_vllm import BLOCK, CONNECTOR, PROMPT, generate, stored

    from vllm import LLM

    engine = LLM(sys.argv[1], skip_tokenizer_init=True, enforce_eager=True, dtype="float32", block_size=BLOCK, max_model_len=512,
                 tensor_parallel_size=2, load_format="penstock", model_loader_extra_config={"prefix": "models/tiny"},
                 kv_transfer_config=CONNECTOR | {"kv_connector": "PenstockConnector", "kv_connector_module_path": "penstock.vllm"})
    saved = generate(engine, PROMPT)
    with penstock.connect() as store:
        end = time.monotonic() + 20
        while len(names := [info.name for info in stored(store)]) < 10 and time.monotonic() < end:
            time.sleep(0.01)
    engine.reset_prefix_cache()
    print(json.dumps({"saved": saved, "loaded": generate(engine, PROMPT), "names": names}))


if __name__ == "__main__":  # vLLM's workers import this file
    main()
