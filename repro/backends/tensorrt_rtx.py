"""TensorRT-RTX: the same API, and another product. It builds where no GPU is, and compiles on loading.

Its engines have kernels that a JIT chooses on the GPU, so its times say nothing about TensorRT's.
"""

from __future__ import annotations

from repro.backends import bindings
from repro.backends.tensorrt import Api
from repro.trtexec.forms import LOG_LINES as LOG_LINES

_API = Api(bindings.RTX)
NAME, PRODUCT, MODULES = _API.product.key, _API.product.name, _API.product.modules
BUILD_OUTLIVES_PROCESS, TIMES_ITSELF, BUILDS_WITHOUT_GPU = True, False, True
settings, release, refuse, typings = _API.settings, _API.release, _API.refuse, _API.typings
libraries, unoptimised, build, reload = _API.libraries, _API.unoptimised, _API.build, _API.reload
