"""What a worker process answers over HTTP: `/metrics`, `/health` and `/ready`."""

from tierpool.pools.endpoint.listen import Listen
from tierpool.pools.endpoint.sdk_metrics import metrics_runtime
from tierpool.pools.endpoint.server import serve_endpoint

__all__ = ["Listen", "metrics_runtime", "serve_endpoint"]
