"""From rating files to packed batches; see docs/architecture.md. Import the submodules: this file is empty."""
