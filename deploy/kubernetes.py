"""The code location on Kubernetes: each step in a pod of its own, with what its asset needs.

$DSELECT_STEP_PODS says what that is, as YAML: {asset: what would be its tag `dagster-k8s/config`}. It stands in
values.yaml, so that another GPU needs no other image. The price is a pod a step, which takes seconds to start and opens
the model anew; without it (`-m dselect_dagster.definitions`) a run is one pod, and all runs get the same.
"""

import os

import dagster as dg
import yaml
from dagster_k8s import k8s_job_executor
from dagster_k8s.job import UserDefinedDagsterK8sConfig

from dselect_core.errors import DselectError
from dselect_core.settings.settings import config_path, load_settings
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.graph import corpus_definitions

graph = corpus_definitions(Corpus.of_file(load_settings(config_path()), str(config_path())))
_step_of = {
    key.to_user_string(): asset.op.name
    for asset in graph.assets or ()
    if isinstance(asset, dg.AssetsDefinition)
    for key in asset.keys
}


def per_step_pods(text: str) -> dict[str, object]:
    """{step: pod} of a text with {asset: pod}. Raises DselectError for an asset that the graph has not."""
    pods = yaml.safe_load(text) or {}
    if unknown := sorted(set(pods) - set(_step_of)):
        raise DselectError(
            f"DSELECT_STEP_PODS: no asset {', '.join(unknown)}; there are: {', '.join(sorted(_step_of))}"
        )
    for pod in pods.values():
        UserDefinedDagsterK8sConfig.from_dict(pod)  # raises for a field that Kubernetes does not know
    return {_step_of[asset]: pod for asset, pod in pods.items()}


executor = k8s_job_executor.configured({"per_step_k8s_config": per_step_pods(os.environ.get("DSELECT_STEP_PODS", ""))})
defs = dg.Definitions.merge(graph, dg.Definitions(executor=executor))
