"""How Sphinx builds the site: ``make docs``."""

import logging
import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
os.environ.pop("MPLBACKEND", None)  # figures are drawn into the pages
profile = HERE / "_build" / "ipython" / "profile_default"  # of the kernels, without the settings of the user
profile.mkdir(parents=True, exist_ok=True)
(profile / "ipython_kernel_config.py").write_text(
    'get_config().InlineBackend.figure_formats = {"svg"}\nget_config().Application.log_level = "ERROR"\n'
)
logging.getLogger("traitlets").setLevel("WARNING")
os.environ["IPYTHONDIR"] = str(profile.parent)
os.environ["PYTHONPATH"] = str(HERE.parent)  # of the kernels that execute the pages
sys.path[:0] = [str(HERE), str(HERE.parent)]

from tests.quick_compilation import FLAGS  # noqa: E402

os.environ.setdefault("XLA_FLAGS", FLAGS)  # of the kernels, too

project = "rnn_jax"
author = "the authors of rnn_jax"
project_copyright = f"{author}; Apache-2.0"
version = release = version_of("rnn-jax-lab")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "reference"]
exclude_patterns = ["_build", "*.py"]
myst_heading_anchors = 3
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_param = False  # several arguments with one explanation stay one line
napoleon_use_rtype = False

html_theme = "furo"
html_title = "rnn_jax"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
