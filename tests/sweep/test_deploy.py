"""The deployment files: cluster.yaml (AWS), deploy/*.json (its permissions), deploy/rayjob.yaml (Kubernetes).

Ray accepts misspelt keys of `provider` and `node_config`, and AWS rejects them only when a machine is requested. So
they are checked against the keys that Ray's source reads and against botocore's model of RunInstances. Then Ray's own
provider runs them against moto's EC2 and IAM. No machine is started: setup over ssh is not tested.
"""

import copy
import http.server
import importlib.resources
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import jsonschema
import kubernetes_validate
import pytest
import ray.autoscaler
import yaml
from botocore.exceptions import ClientError
from botocore.model import ListShape, Shape, StructureShape
from botocore.validate import ParamValidator
from ray.autoscaler import tags as ray_tags
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import drain_node

from catdog.errors import NotFoundError, UserError
from catdog.storage import StoreLocation
from tests.helpers.project import ROOT
from tests.helpers.s3_servers import start_authorization

CLUSTER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
HEAD = CLUSTER["head_node_type"]
WORKERS = sorted(set(CLUSTER["available_node_types"]) - {HEAD})
SERVICE_ACCOUNT, RAY_JOB = yaml.safe_load_all((ROOT / "deploy" / "rayjob.yaml").read_text())
LOCK = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
POLICIES = ("iam-policy.json", "iam-policy-head.json")
# One of moto's images: moto does not resolve SSM parameters.
MOTO_IMAGE = "ami-0b301ce3ce347599c"


def node_config(node_type: str) -> dict[str, Any]:
    return CLUSTER["available_node_types"][node_type]["node_config"]


def deployed(name: str) -> dict[str, Any]:
    """Return one of the JSON files with its placeholders filled in."""
    text = (ROOT / "deploy" / name).read_text()
    return json.loads(text.replace("BUCKET", "pets").replace("PREFIX", "sweeps"))


def keys_of_provider() -> set[str]:
    """Return the keys of `provider` that Ray's source reads on AWS."""
    folder = Path(ray.autoscaler.__file__).parent / "_private"
    sources = [*(folder / "aws").rglob("*.py"), folder / "updater.py"]
    pattern = r'provider(?:_config)?(?:"\])?(?:\.get\(|\[)"(\w+)"'
    return {key for path in sources for key in re.findall(pattern, re.sub(r"\s", "", path.read_text()))}


def unknown_values(value: Any, shape: Shape, where: str) -> Iterator[str]:
    """Yield values that AWS's model does not list (boto3 would send them anyway)."""
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        for key in value.keys() & shape.members.keys():
            yield from unknown_values(value[key], shape.members[key], f"{where}.{key}")
    elif isinstance(shape, ListShape) and isinstance(value, list):
        for item in value:
            yield from unknown_values(item, shape.member, where)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{where}: {value!r} is no value that AWS knows"


def mistakes(cluster: dict[str, Any]) -> list[str]:
    """Return the mistakes in a cluster.yaml that can be found without an account."""
    try:
        prepared = prepare_config(copy.deepcopy(cluster))
        validate_config(prepared)
    except (jsonschema.ValidationError, ValueError, KeyError) as error:
        return [str(error)]
    session = botocore.session.get_session()
    found = [f"provider: nothing reads {key!r}" for key in cluster["provider"].keys() - keys_of_provider()]
    if cluster["provider"].get("region") not in session.get_available_regions("ec2"):
        found.append(f"provider: no region {cluster['provider'].get('region')!r}")
    launch = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, node_type in cluster["available_node_types"].items():
        config = {"MinCount": 1, "MaxCount": 1} | node_type["node_config"]  # Ray sets the counts
        report = ParamValidator().validate(config, launch)
        found += [report.generate_report()] if report.has_errors() else []
        found += unknown_values(config, launch, name)
        found += [f"{name}: no {key}" for key in ("InstanceType", "ImageId", "IamInstanceProfile") if key not in config]
    return found


def test_cluster_yaml_has_no_mistake() -> None:
    assert mistakes(CLUSTER) == []


@pytest.mark.parametrize(
    ("where", "key", "typo"),
    [
        ("", "max_workers", "max_worker"),
        ("", "idle_timeout_minutes", "idle_timeout_minute"),
        ("", "worker_start_ray_commands", "workers_start_ray_commands"),
        ("", "head_node_type", "head_node"),
        ("provider", "region", "regoin"),
        ("provider", "cache_stopped_nodes", "cache_stoped_nodes"),
        ("provider", "cache_stopped_nodes", "use_internal_ip"),
        ("available_node_types.g6", "min_workers", "min_worker"),
        ("available_node_types.g6.node_config", "IamInstanceProfile", "IamInstanceProfil"),
        ("available_node_types.g6.node_config", "InstanceMarketOptions", "InstanceMarketOption"),
        ("available_node_types.g6.node_config.InstanceMarketOptions", "MarketType", "Markettype"),
        ("available_node_types.head.node_config", "InstanceType", "instance_type"),
        ("available_node_types.head.node_config.MetadataOptions", "HttpTokens", "HttpToken"),
        ("available_node_types.head.node_config.IamInstanceProfile", "Name", "name"),
    ],
)
def test_a_misspelt_key_is_reported(where: str, key: str, typo: str) -> None:
    cluster = copy.deepcopy(CLUSTER)
    place = cluster
    for part in where.split(".") if where else []:
        place = place[part]
    place[typo] = place.pop(key)
    assert any(typo in mistake for mistake in mistakes(cluster)), mistakes(cluster)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("max_workers", "8 GPUs"),
        ("max_workers", -1),
        ("provider.region", "us-west-22"),
        ("available_node_types.g6.node_config.InstanceType", "g6.xlrge"),
        ("available_node_types.g6.node_config.InstanceMarketOptions.MarketType", "spott"),
        ("available_node_types.g6.node_config.MetadataOptions.HttpTokens", "true"),
        ("available_node_types.g6.node_config.IamInstanceProfile", "catdog-worker"),
    ],
)
def test_a_wrong_value_is_reported(where: str, value: object) -> None:
    cluster = copy.deepcopy(CLUSTER)
    place = cluster
    *parents, key = where.split(".")
    for part in parents:
        place = place[part]
    place[key] = value
    assert any(str(value) in mistake for mistake in mistakes(cluster)), mistakes(cluster)


def test_the_head_is_on_demand_and_takes_no_trial() -> None:
    head = CLUSTER["available_node_types"][HEAD]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]


def test_all_workers_are_spot_machines_and_there_may_be_none() -> None:
    assert len({node_config(worker)["InstanceType"] for worker in WORKERS}) == 3
    for worker in WORKERS:
        assert node_config(worker)["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert CLUSTER["available_node_types"][worker]["min_workers"] == 0


def test_commands_on_a_node_have_the_token_and_the_environment(tmp_path: Path) -> None:
    assert CLUSTER["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    (command,) = [command for command in CLUSTER["setup_commands"] if ".bashrc" in command]
    for _ in range(2):
        subprocess.run(["bash", "-c", command], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True)
    show = "source ~/.bashrc; echo $RAY_AUTH_MODE $RAY_USAGE_STATS_ENABLED $PATH"
    printed = subprocess.run(
        ["bash", "-c", show], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True, capture_output=True
    )
    assert printed.stdout.decode().startswith(f"token 0 {tmp_path}/venv/bin:")


def test_the_setup_of_nodes_is_exactly_what_cluster_yaml_says() -> None:
    prepared = prepare_config(copy.deepcopy(CLUSTER))
    assert prepared["worker_setup_commands"] == CLUSTER["setup_commands"]
    assert prepared["head_setup_commands"] == [*CLUSTER["setup_commands"], *CLUSTER["head_setup_commands"]]
    assert prepared["initialization_commands"] == []
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert prepared[commands] == CLUSTER[commands]
    assert "--disable-usage-stats" in CLUSTER["head_start_ray_commands"][-1]
    assert "--dashboard-host" not in CLUSTER["head_start_ray_commands"][-1]  # the default is loopback


def test_a_worker_without_ray_ends_itself_and_one_with_ray_does_not(tmp_path: Path) -> None:
    assert "bash ~/environment/worker_watchdog.sh " in "\n".join(CLUSTER["worker_start_ray_commands"])
    assert all(node_config(one)["InstanceInitiatedShutdownBehavior"] == "terminate" for one in WORKERS)
    sudo = tmp_path / "bin" / "sudo"
    sudo.parent.mkdir()
    sudo.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/ended\n')
    sudo.chmod(0o755)
    ray = tmp_path / "ray-of-a-test"
    shutil.copy("/bin/sleep", ray)
    environment = os.environ | {"PATH": f"{sudo.parent}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    command = ["bash", str(ROOT / "deploy" / "worker_watchdog.sh"), "0.02", ray.name]
    with subprocess.Popen([ray, "600"]) as running:
        watchdogs = [subprocess.Popen(command, env=environment) for _ in range(2)]
        try:
            while all(one.poll() is None for one in watchdogs):
                time.sleep(0.1)
            time.sleep(2)  # a hundred looks
            (watchdog,) = [one for one in watchdogs if one.poll() is None]  # the other found this one
            assert not (tmp_path / "ended").exists()
            running.terminate()
            running.wait()
            assert watchdog.wait(timeout=60) == 0
        finally:
            for process in (running, *watchdogs):
                process.kill()
    assert (tmp_path / "ended").read_text() == "shutdown --poweroff now\n"


class MetadataService(http.server.BaseHTTPRequestHandler):
    """EC2's, version 2, of an instance that is to be reclaimed from the third question on."""

    asked = 0

    def do_PUT(self) -> None:
        self.answer(200, b"token" if self.headers.get("X-aws-ec2-metadata-token-ttl-seconds") else b"")

    def do_GET(self) -> None:
        type(self).asked += 1
        known = (self.headers.get("X-aws-ec2-metadata-token"), self.path)
        assert known == ("token", "/latest/meta-data/spot/instance-action")
        if type(self).asked < 3:
            self.answer(404, b"Not Found")
        else:
            self.answer(200, b'{"action": "terminate", "time": "2026-11-26T20:00:00Z"}')

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_a_worker_drains_itself_when_aws_announces_that_it_will_be_reclaimed(tmp_path: Path) -> None:
    assert "bash ~/environment/spot_notice.sh $RAY_HEAD_IP:6379 " in CLUSTER["worker_start_ray_commands"][-1]
    ray = tmp_path / "ray"
    ray.write_text(f'#!/bin/sh\nprintf "%s\\n" "$RAY_ADDRESS" "$@" > {tmp_path}/asked\n')
    ray.chmod(0o755)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), MetadataService) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        environment = os.environ | {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{service.server_port}",
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(tmp_path),
        }
        command = ["bash", str(ROOT / "deploy" / "spot_notice.sh"), "head:6379", "0.02"]
        subprocess.run(command, env=environment, check=True, timeout=60)
        service.shutdown()
    assert MetadataService.asked == 3
    address, *arguments = (tmp_path / "asked").read_text().splitlines()
    assert address == "head:6379"
    options = drain_node.make_context("drain-node", arguments[1:]).params  # Ray's own parser
    assert (arguments[0], options["reason"]) == ("drain-node", "DRAIN_NODE_REASON_PREEMPTION")
    assert options["deadline_remaining_seconds"] == 100
    assert "terminate" in options["reason_message"]


def test_a_pod_that_ends_drains_its_node_within_its_grace_period() -> None:
    (group,) = RAY_JOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    drain, _, wait = command[2].partition(" && ")
    program, name, *arguments = shlex.split(drain)
    assert (program, name, command[:2]) == ("ray", "drain-node", ["sh", "-c"])
    options = drain_node.make_context(name, arguments).params  # KubeRay sets RAY_ADDRESS in every worker
    assert (options["reason"], options["address"]) == ("DRAIN_NODE_REASON_PREEMPTION", None)
    assert wait == f"sleep {options['deadline_remaining_seconds']}"
    assert pod["terminationGracePeriodSeconds"] > options["deadline_remaining_seconds"]


def test_what_aws_did_not_grant_is_asked_for_again_after_two_minutes() -> None:
    variables = dict(re.findall(r"(RAY_\w+)=(\S+)", CLUSTER["head_start_ray_commands"][-1]))
    show = (
        "from ray.autoscaler.v2.instance_manager.config import InstanceReconcileConfig\n"
        "print(InstanceReconcileConfig().request_status_timeout_s)"
    )
    command = [sys.executable, "-c", show]
    assert subprocess.run(command, env=os.environ | variables, check=True, capture_output=True).stdout == b"120\n"


def test_nodes_install_the_versions_in_the_lock_file() -> None:
    python = re.search(r"--python-version (\d+\.\d+)", (ROOT / "Makefile").read_text())
    assert python is not None
    setup = "\n".join(CLUSTER["setup_commands"])
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"--python {python[1]} --with boto3=={LOCK['boto3']} ~/environment/node_environment.py s3://" in setup
    assert re.search(r"uv/([\d.]+)/", setup)[1] == re.search(r"uv==([\d.]+)", dockerfile)[1]  # type: ignore[index]
    assert f"FROM python:{python[1]}-slim-" in dockerfile
    options = "-r pyproject.toml --extra lite0 -c requirements.lock"
    assert options in dockerfile
    assert "lite0" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    module = runpy.run_path(str(ROOT / "deploy" / "node_environment.py"))
    assert " ".join(Path(option).name for option in module["PACKAGES"]) == options


def test_only_the_head_stores_its_environment_where_workers_look_for_it() -> None:
    (command,) = (command for command in CLUSTER["setup_commands"] if "node_environment.py" in command)
    assert CLUSTER["head_setup_commands"] == [f"{command} --upload"]


def test_every_file_that_nodes_get_is_there_and_used() -> None:
    scripts = ["setup_commands", "head_start_ray_commands", "worker_start_ray_commands"]
    used = "\n".join(command for name in scripts for command in CLUSTER[name])
    used += (ROOT / "deploy" / "node_environment.py").read_text()
    for remote, local in CLUSTER["file_mounts"].items():
        assert local.startswith("~") or ((ROOT / local).exists() and Path(remote).name in used)


@pytest.fixture(scope="module")
def aws(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The url of a server with the roles and profiles that cluster.yaml names."""
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray puts the ssh key there
        environment.setenv("AWS_ENDPOINT_URL", s3_server)
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        environment.setenv("AWS_DEFAULT_REGION", CLUSTER["provider"]["region"])
        environment.setattr(boto3, "DEFAULT_SESSION", None)
        resource_cache.cache_clear()
        client_cache.cache_clear()
        iam = boto3.client("iam")
        for name in ("catdog-head", "catdog-worker"):
            iam.create_role(
                RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
            )
            iam.create_instance_profile(InstanceProfileName=name)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        yield s3_server
    resource_cache.cache_clear()
    client_cache.cache_clear()


@pytest.fixture(scope="module")
def cluster(aws: str) -> dict[str, Any]:
    """cluster.yaml after `ray up` has prepared it and the account, just before it launches the head."""
    config = prepare_config(copy.deepcopy(CLUSTER))
    for node_type in config["available_node_types"].values():
        node_type["node_config"]["ImageId"] = MOTO_IMAGE
    return bootstrap_aws(config)


@pytest.fixture
def authorization(aws: str) -> Iterator[Callable[..., dict[str, str]]]:
    """A function that creates a user with some of the policies, enforced from then on; returns its keys.

    moto evaluates actions and resources but not conditions, so conditions are left out.
    """

    def restrict(*names: str) -> dict[str, str]:
        iam = boto3.client("iam")
        user = f"user-{time.time_ns()}"
        iam.create_user(UserName=user)
        for name in names:
            policy = deployed(name)
            for statement in policy["Statement"]:
                statement.pop("Condition", None)
            iam.put_user_policy(UserName=user, PolicyName=Path(name).stem, PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=user)["AccessKey"]
        start_authorization(aws, after="0")
        return {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}

    yield restrict
    start_authorization(aws, after="inf")


def launch(provider: AWSNodeProvider, cluster: dict[str, Any], node_type: str) -> str:
    """Create a node as Ray does; returns its id."""
    tags = {
        ray_tags.TAG_RAY_NODE_KIND: ray_tags.NODE_KIND_HEAD if node_type == HEAD else ray_tags.NODE_KIND_WORKER,
        ray_tags.TAG_RAY_NODE_NAME: f"ray-{cluster['cluster_name']}-{node_type}",
        ray_tags.TAG_RAY_USER_NODE_TYPE: node_type,
        ray_tags.TAG_RAY_LAUNCH_CONFIG: "hash",
    }
    (identity,) = provider.create_node(cluster["available_node_types"][node_type]["node_config"], tags, 1)
    return identity


@pytest.mark.parametrize("node_type", [HEAD, *WORKERS])
def test_ray_launches_and_ends_nodes_as_cluster_yaml_says(cluster: dict[str, Any], node_type: str) -> None:
    provider = AWSNodeProvider(cluster["provider"], cluster["cluster_name"])
    identity = launch(provider, cluster, node_type)
    assert provider.non_terminated_nodes({}) == [identity]
    ec2 = boto3.client("ec2", CLUSTER["provider"]["region"])

    def describe() -> dict[str, Any]:
        return ec2.describe_instances(InstanceIds=[identity])["Reservations"][0]["Instances"][0]

    instance = describe()
    wanted = node_config(node_type)
    assert instance["InstanceType"] == wanted["InstanceType"]
    assert instance.get("InstanceLifecycle") == (None if node_type == HEAD else "spot")
    assert instance["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{wanted['IamInstanceProfile']['Name']}")
    assert instance["KeyName"] == "ray-autoscaler_us-west-2"
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert tags[ray_tags.TAG_RAY_CLUSTER_NAME] == "catdog"
    assert tags[ray_tags.TAG_RAY_USER_NODE_TYPE] == node_type
    (volume,) = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [identity]}])["Volumes"]
    assert volume["Size"] == 200

    provider.terminate_nodes([identity])
    assert describe()["State"]["Name"] == "terminated"
    assert provider.non_terminated_nodes({}) == []


@pytest.mark.slow  # Ray reads all of AWS's instance types, a thousand
def test_ray_detects_one_gpu_on_every_worker_and_no_resources_on_the_head(aws: str) -> None:
    filled = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(copy.deepcopy(CLUSTER)))
    validate_config(filled)
    found = {name: node_type["resources"] for name, node_type in filled["available_node_types"].items()}
    assert found[HEAD] == {"CPU": 0, "GPU": 0}
    assert {name: (found[name]["GPU"], found[name]["CPU"]) for name in WORKERS} == {
        "g6": (1, 4), "g5": (1, 4), "g6-large": (1, 8),
    }  # fmt: skip


def test_only_ssh_is_open_to_the_world(cluster: dict[str, Any]) -> None:
    groups = {
        group for node in cluster["available_node_types"].values() for group in node["node_config"]["SecurityGroupIds"]
    }
    (group,) = boto3.client("ec2", CLUSTER["provider"]["region"]).describe_security_groups(GroupIds=list(groups))[
        "SecurityGroups"
    ]
    from_outside = [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"]]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in from_outside] == [("tcp", 22, 22)]
    (inside,) = [rule for rule in group["IpPermissions"] if rule not in from_outside]
    assert [pair["GroupId"] for pair in inside["UserIdGroupPairs"]] == list(groups)


def test_the_head_may_launch_tag_and_end_workers_and_nothing_else(
    cluster: dict[str, Any], authorization: Callable[..., dict[str, str]]
) -> None:
    keys = authorization(*POLICIES)
    provider = AWSNodeProvider(cluster["provider"] | {"aws_credentials": keys}, cluster["cluster_name"])
    identity = launch(provider, cluster, WORKERS[0])
    provider.non_terminated_nodes({})
    provider.set_node_tags(identity, {ray_tags.TAG_RAY_NODE_STATUS: ray_tags.STATUS_UP_TO_DATE})
    provider.terminate_nodes([identity])
    assert provider.non_terminated_nodes({}) == []
    with pytest.raises(ClientError, match="not authorized"):
        boto3.client("ec2", CLUSTER["provider"]["region"], **keys).describe_vpcs()


def test_a_store_has_all_the_rights_it_needs_below_its_prefix_and_none_outside(
    aws: str, authorization: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    boto3.client("s3", "us-east-1").create_bucket(Bucket="pets")
    for name, value in authorization("iam-policy.json").items():
        monkeypatch.setenv(name.upper(), value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    store, beside = (StoreLocation(f"s3://pets/{prefix}", aws).open() for prefix in ("sweeps", "others"))
    store.check()
    big = tmp_path / "big"
    big.write_bytes(bytes(9 << 20))  # a multipart upload
    store.put_file("run/big", big)
    store.get_file("run/big", tmp_path / "copy")
    assert store.list("run/") == ["run/big"]
    assert store.exists("run/big")
    with pytest.raises(NotFoundError):
        store.get("run/missing")
    store.delete("run/big")
    with pytest.raises(UserError, match="access denied"):
        beside.check()


@pytest.mark.parametrize("name", POLICIES)
def test_aws_knows_every_action_of_the_policies(name: str) -> None:
    known = json.loads((importlib.resources.files("cfnlint.data.AdditionalSpecs") / "Policies.json").read_text())
    for statement in deployed(name)["Statement"]:
        actions = statement["Action"]
        for action in [actions] if isinstance(actions, str) else actions:
            service, _, operation = action.partition(":")
            assert operation.lower() in known[service]["Actions"], action


def test_iam_and_s3_accept_the_policies_and_the_lifecycle(aws: str) -> None:
    for name in POLICIES:
        boto3.client("iam").put_role_policy(
            RoleName="catdog-head", PolicyName=Path(name).stem, PolicyDocument=json.dumps(deployed(name))
        )
    s3 = boto3.client("s3", "us-east-1")
    s3.create_bucket(Bucket="pets")
    s3.put_bucket_lifecycle_configuration(Bucket="pets", LifecycleConfiguration=deployed("s3-lifecycle.json"))
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket="pets")["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert not any("Expiration" in key for key in rule)  # nothing that a run stored is ever deleted


def test_the_policies_name_the_cluster_and_the_profiles_of_cluster_yaml() -> None:
    head = {statement["Sid"]: statement for statement in deployed("iam-policy-head.json")["Statement"]}
    cluster_tag = f"aws:ResourceTag/{ray_tags.TAG_RAY_CLUSTER_NAME}"
    assert head["ThisClusterOnly"]["Condition"]["StringEquals"] == {cluster_tag: CLUSTER["cluster_name"]}
    for worker in WORKERS:
        profile = node_config(worker)["IamInstanceProfile"]["Name"]
        assert head["GiveWorkersTheirProfile"]["Resource"].endswith(f":role/{profile}")
        image = node_config(worker)["ImageId"].removeprefix("resolve:ssm:")
        assert f":parameter{image}".startswith(":" + head["FindTheImage"]["Resource"].rpartition(":")[2].rstrip("*"))


def closed(types: dict[str, str | dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON schema of an object with the fields named, by type, and no others."""
    fields: dict[str, Any] = {}
    for names, kind in types.items():
        fields |= dict.fromkeys(names.split(), {"type": kind} if isinstance(kind, str) else kind)
    return {"type": "object", "properties": fields, "additionalProperties": False}


def each(kind: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": kind}


# All fields of KubeRay's ray.io/v1 (https://docs.ray.io/en/master/kuberay/references/api.html, v1.7), by their types in
# Go: its own schema is in no package. Those of Kubernetes are checked against the schema that it publishes.
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
GROUP: dict[str, str | dict[str, Any]] = {"rayStartParams resources labels": STRINGS, "template": "object"}
RAY_CLUSTER_SPEC = closed(
    {
        "rayVersion managedBy": "string",
        "suspend enableInTreeAutoscaling": "boolean",
        "headServiceAnnotations": STRINGS,
        "gcsFaultToleranceOptions historyServerOptions networkPolicy tlsOptions": "object",
        "upgradeStrategy": closed({"type": "string"}),
        "authOptions": closed({"mode secretName": "string", "enableK8sTokenAuth": "boolean"}),
        "autoscalerOptions": closed(
            {
                "image imagePullPolicy upscalingMode version": "string",
                "idleTimeoutSeconds": "integer",
                "resources securityContext": "object",
                "env envFrom volumeMounts command args": "array",
            }
        ),
        "headGroupSpec": closed(
            GROUP | {"headService ingressOptions": "object", "enableIngress": "boolean", "serviceType": "string"}
        ),
        "workerGroupSpecs": each(
            closed(
                GROUP
                | {
                    "groupName": "string",
                    "replicas minReplicas maxReplicas numOfHosts idleTimeoutSeconds priority": "integer",
                    "suspend": "boolean",
                    "scaleStrategy": "object",
                }
            )
        ),
    }
)
RAY_JOB_SCHEMA = closed(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": closed({"name namespace": "string", "labels annotations": STRINGS}),
        "spec": closed(
            {
                "entrypoint runtimeEnvYAML jobId submissionMode entrypointResources managedBy": "string",
                "entrypointNumCpus entrypointNumGpus": "number",
                "ttlSecondsAfterFinished activeDeadlineSeconds backoffLimit": "integer",
                "shutdownAfterJobFinishes suspend": "boolean",
                "metadata clusterSelector": STRINGS,
                "submitterConfig deletionStrategy submitterPodTemplate": "object",
                "rayClusterSpec": RAY_CLUSTER_SPEC,
            }
        ),
    }
)


def pods(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the templates of all pods, as objects of Kubernetes."""
    cluster = manifest["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [{"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]} for group in groups]


def manifest_mistakes(manifest: dict[str, Any]) -> list[str]:
    """Return what KubeRay or Kubernetes would refuse or ignore."""
    found = [error.message for error in jsonschema.Draft202012Validator(RAY_JOB_SCHEMA).iter_errors(manifest)]
    for part in pods(manifest) if not found else []:
        try:
            kubernetes_validate.validate(part, "1.34", strict=True)
        except jsonschema.ValidationError as error:
            found.append(error.message)
    return found


def test_the_manifest_has_no_mistake() -> None:
    assert manifest_mistakes(RAY_JOB) == []
    kubernetes_validate.validate(SERVICE_ACCOUNT, "1.34", strict=True)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('"shutdownAfterJobFinishes":', '"shutdownAfterJobFinished":'),
        ('"authOptions":', '"authOption":'),
        ('"minReplicas":', '"minReplica":'),
        ('"serviceAccountName":', '"serviceAccount_name":'),
        ('"limits":', '"limit":'),
        ('"backoffLimit": 1', '"backoffLimit": "1"'),
        ('"num-cpus": "0"', '"num-cpus": 0'),
        ('"terminationGracePeriodSeconds": 120', '"terminationGracePeriodSeconds": "120"'),
    ],
)
def test_a_mistake_in_the_manifest_is_reported(text: str, mistake: str) -> None:
    changed = json.dumps(RAY_JOB).replace(text, mistake)
    assert changed != json.dumps(RAY_JOB)
    assert manifest_mistakes(json.loads(changed)) != []


def test_the_manifest_scales_gpus_from_zero_keeps_trials_off_the_head_and_cleans_up() -> None:
    spec = RAY_JOB["spec"]
    cluster = spec["rayClusterSpec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert spec["backoffLimit"] == 1, "a typo pays for two clusters, not four"
    assert spec["activeDeadlineSeconds"] > 0
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["minReplicas"], workers["replicas"]) == (0, 0)
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert workers["template"]["spec"]["terminationGracePeriodSeconds"] > 30, "a drained node writes checkpoints"


def test_the_manifests_service_account_may_assume_its_role(aws: str) -> None:
    role = SERVICE_ACCOUNT["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].rpartition("/")[2]
    created = boto3.client("iam").create_role(
        RoleName=role, AssumeRolePolicyDocument=json.dumps(deployed("iam-trust-kubernetes.json"))
    )
    (statement,) = created["Role"]["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert "oidc-provider" in statement["Principal"]["Federated"]
    subject = f"system:serviceaccount:default:{SERVICE_ACCOUNT['metadata']['name']}"
    assert subject in statement["Condition"]["StringEquals"].values()
    commands = (ROOT / "deploy" / "rayjob.yaml").read_text()
    assert f"--role-name {role} --policy-name store" in commands


def test_the_manifest_runs_the_image_of_the_dockerfile_at_the_version_in_the_lock_file() -> None:
    cluster = RAY_JOB["spec"]["rayClusterSpec"]
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert cluster["rayVersion"] == LOCK["ray"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] == SERVICE_ACCOUNT["metadata"]["name"]
        (container,) = pod["containers"]
        assert f"-t {container['image']} ." in dockerfile
        assert container["image"].endswith(f":{LOCK['ray']}")
        assert f"WORKDIR {container['workingDir']}\n" in dockerfile


def test_both_deployments_run_the_same_sweep_command() -> None:
    command = RAY_JOB["spec"]["entrypoint"]
    assert command in re.sub(r"\\\n# +", " ", (ROOT / "cluster.yaml").read_text())
    assert command == "python jobs/sweep.py paper --store s3://BUCKET/PREFIX"
