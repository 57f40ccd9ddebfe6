# The stages of dvc.yaml as Snakemake rules: DVC declares, Snakemake schedules.
#
#   snakemake --profile profiles/local                                 everything, on all cores
#   snakemake --profile profiles/local --config papers=smalltowers     one paper
#   snakemake --profile profiles/slurm                                 on a cluster
#
# A rule's output is a marker of this run only. Whether a stage has anything to do is decided by content, inside the
# job (`reprise.engine execute`), never by Snakemake's time stamps.

import sys

sys.path.insert(0, f"{config.get('root', '.')}/src")  # a pod finds the shared checkout by `root`
from reprise import engine

NODES = engine.chosen(engine.graph(), [p for p in str(config.get("papers") or "").split(",") if p])
MARKER = {node.address: f".reprise/markers/{node.id}" for node in NODES}


rule all:
    input:
        list(MARKER.values()),
    default_target: True


for node in NODES:

    rule:
        name:
            node.id
        input:
            [MARKER[parent] for parent in node.parents],
        output:
            touch(MARKER[node.address]),
        log:
            node.log,
        params:
            address=node.address,
            python=sys.executable,
            root=engine.ROOT,
        threads: node.meta.get("threads", 1)
        resources:
            mem_mb=node.meta.get("mem_mb", 2000),
            gpu=node.meta.get("gpu", 0),
            runtime=node.meta.get("runtime", 60),
        shell:
            "cd {params.root} && {params.python} -m reprise.engine execute {params.address} 2>&1 | tee {log}"
