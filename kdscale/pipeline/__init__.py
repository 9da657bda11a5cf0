"""The pipeline: stages in order, their artefacts, and what is already done. One module a stage."""
