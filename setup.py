"""Packaging: `pip install -e .` gives the `kdscale` command, `.[test]` what the tests need besides."""

from setuptools import find_packages, setup

setup(
    name="kdscale",
    version="0.1.0",
    description="Turn an ensemble of neural networks into one model that can be served.",
    python_requires=">=3.11",
    packages=find_packages(include=["kdscale", "kdscale.*", "launcher"]),
    package_data={"kdscale.report": ["*.html.j2"]},
    install_requires=[
        "torch>=2.7",
        "deepspeed>=0.17",
        "ray[default]>=2.50",
        "webdataset>=1.0",
        "wandb>=0.22",
        "pyarrow>=20",
        "numpy>=1.26",
        "pydantic>=2.7",
        "pyyaml>=6",
        "typer>=0.15",
        "rich>=13",
        "safetensors>=0.5",
        "scikit-learn>=1.5",
        "pillow>=10",
        "matplotlib>=3.9",
        "jinja2>=3.1",
        "xxhash>=3.4",
        "psutil>=6",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3",
            "pytest-timeout>=2",
            "hypothesis>=6",
            "torchmetrics>=1.5",
            "ruff",
            "mypy",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["kdscale=launcher.cli:main"]},
)
