"""Flags of XLA for programs that are compiled once and compute little: those of the tests, and of the site's pages."""

from importlib.metadata import version

# Without LLVM's optimisations compilation costs half as much, and without the generator of fused code that jaxlib 0.10
# uses, half of that. Later versions have no such choice and refuse the flag. A small program is compiled in one piece:
# pieces for 32 threads cost a tenth more.
FLAGS = " ".join(
    [
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        *(["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib").startswith("0.10.") else []),
    ]
)

__all__ = ["FLAGS"]
