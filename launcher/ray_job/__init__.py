"""Runs as jobs of a Ray that runs elsewhere, through its Job API, and as RayJobs of KubeRay.

`parcel` packs what travels, `client` speaks with the cluster, `jobs` keeps a folder for each job and looks after it,
`kuberay` renders a manifest.
"""
