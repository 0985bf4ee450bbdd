"""The doctor before `ray up`: cluster.yaml, the token, and the account, on moto's EC2, IAM, S3, SSM and STS.

moto does not know EC2's quotas, nor the simulation of policies: where a test needs their answers, it gives them.
"""

import fnmatch
import functools
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.awsrequest import AWSResponse

from catdog.cli import run_job
from catdog.errors import UserError
from catdog.storage import aws_account
from catdog.storage.aws_account import AwsAccount
from catdog.sweep.cluster_file import read_cluster_file
from catdog.sweep.doctor_account import SPOT_QUOTA, check_account
from catdog.sweep.doctor_nodes import Check
from jobs import doctor
from tests.helpers.project import ROOT
from tests.helpers.s3_servers import start_authorization

REGION = "us-west-2"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def aws(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The account as cluster.yaml's comments leave it, and a home with the token; yields IAM's client."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o600)
    iam = boto3.client("iam")
    for name in ("doctor-head", "doctor-worker"):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    boto3.client("ssm", REGION).put_parameter(Name="/image", Value="ami-1", Type="String", Overwrite=True)
    yield iam
    for name in ("doctor-head", "doctor-worker"):
        iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
        iam.delete_instance_profile(InstanceProfileName=name)
        iam.delete_role(RoleName=name)


def as_in_the_account(cluster: dict[str, Any]) -> None:
    """Name what the test's account has."""
    for name, kind in cluster["available_node_types"].items():
        profile = "doctor-head" if name == "head" else "doctor-worker"
        kind["node_config"] |= {"ImageId": "resolve:ssm:/image", "IamInstanceProfile": {"Name": profile}}


def write_cluster(folder: Path, *changes: Change) -> str:
    """Write the project's cluster.yaml, changed; return its path."""
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for change in (as_in_the_account, *changes):
        change(cluster)
    (folder / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    return str(folder / "cluster.yaml")


def all_workers(**parameters: Any) -> Change:
    """Return a change of what all types of workers are launched with; None removes a parameter."""

    def change(cluster: dict[str, Any]) -> None:
        for name, kind in cluster["available_node_types"].items():
            if name != "head":
                launch = kind["node_config"] | parameters
                kind["node_config"] = {key: value for key, value in launch.items() if value is not None}

    return change


def simulate(policy: dict[str, Any], request: dict[str, str]) -> dict[str, Any]:
    """Return what AWS answers to a simulation on one resource, for a role with this policy only."""
    context = {
        request[f"ContextEntries.member.{n}.ContextKeyName"]: request[
            f"ContextEntries.member.{n}.ContextKeyValues.member.1"
        ]
        for n in range(1, 9)
        if f"ContextEntries.member.{n}.ContextKeyName" in request
    }

    def allows(statement: dict[str, Any], action: str) -> bool:
        conditions = statement.get("Condition", {}).get("StringLikeIfExists", {})
        return (
            action in statement["Action"]
            and fnmatch.fnmatchcase(request["ResourceArns.member.1"], statement["Resource"])
            and all(fnmatch.fnmatchcase(context.get(key, value), value) for key, value in conditions.items())
        )

    actions = [value for key, value in request.items() if key.startswith("ActionNames.member.")]
    return {
        "EvaluationResults": [
            {"EvalActionName": action, "EvalDecision": "allowed" if able else "implicitDeny"}
            for action in actions
            for able in [any(allows(statement, action) for statement in policy["Statement"])]
        ]
    }


def examine(path: str, store: str = "results", quota: float = 64, allowed: str = "") -> dict[str, Check]:
    """Return the findings by name, where the quota is this and the roles have deploy/iam-policy.json for `allowed`."""
    account = AwsAccount(REGION)
    bucket, _, prefix = allowed.removeprefix("s3://").partition("/")
    text = (ROOT / "deploy" / "iam-policy.json").read_text().replace("BUCKET", bucket).replace("PREFIX", prefix)
    answers = {
        "service-quotas.GetServiceQuota": lambda request: {"Quota": {"QuotaCode": SPOT_QUOTA, "Value": quota}},
        "iam.SimulatePrincipalPolicy": functools.partial(simulate, json.loads(text)),
    }
    for operation, answer in answers.items():

        def reply(params: dict[str, Any], answer: Any = answer, **_: object) -> tuple[AWSResponse, dict[str, Any]]:
            return AWSResponse("", 200, {}, None), answer(params["body"])

        account.client(operation.partition(".")[0]).meta.events.register(f"before-call.{operation}", reply)
    return {check.name: check for check in check_account(read_cluster_file(path), account, store)}


def test_an_account_that_is_ready_has_an_ok_for_everything(aws: Any, s3_bucket: str, tmp_path: Path) -> None:
    checks = examine(write_cluster(tmp_path), f"{s3_bucket}/team", allowed=f"{s3_bucket}/team")
    for name, words in {
        "token": "~/.ray/auth_token goes to every node",
        "file_mounts": "all here: deploy/node_environment.py, pyproject.toml, ",
        "credentials": ":user/moto in us-west-2",
        "instance types": "g6.2xlarge (8 cores, 1 GPU), g6.xlarge (4 cores, 1 GPU), m6i.large (2 cores, 0 GPU)",
        "spot quota": "64 cores of G and VT spot machines, at least 4 for a worker: room for 8",
        "subnet": "in us-west-2a, us-west-2b, us-west-2c",
        "image": "ami-1, from resolve:ssm:/image",
        "role doctor-head": "holds arn:aws:iam::123456789012:role/doctor-head",
        "role doctor-worker": "role/doctor-worker",
        "policy doctor-head": f"read, write, list and delete below {s3_bucket}/team/",
        "policy doctor-worker": f"{s3_bucket}/team/",
        "price g6.xlarge": "g6.xlarge 1e-05 USD/h in us-west-2a",
        "hourly price": "--hourly-price 1e-05",
    }.items():
        assert checks[name].status == "ok", checks[name]
        assert words in checks[name].line
    assert {check.name for check in checks.values() if check.status != "ok"} == {"bucket's region"}
    assert "is in us-east-1, the cluster in us-west-2: traffic between regions costs" in checks["bucket's region"].line


def one_worker(name: str, **parameters: Any) -> Change:
    """Return a change of what one type of workers is launched with."""
    return lambda cluster: cluster["available_node_types"][name]["node_config"].update(parameters)


@pytest.mark.parametrize(
    ("changes", "findings"),
    [
        (
            [
                lambda cluster: cluster["file_mounts"].clear(),
                lambda cluster: cluster["provider"].update(availability_zone="us-west-2y, us-west-2z"),
                all_workers(ImageId="resolve:ssm:/nothing", IamInstanceProfile={"Name": "lost"}),
                one_worker("g5", InstanceType="g9.huge"),
            ],
            {
                "token": ("fault", "file_mounts has no ~/.ray/auth_token"),
                "instance types": ("fault", "does not offer g9.huge: Ray then finds no GPU on any type"),
                "subnet": ("fault", "none in us-west-2y or us-west-2z with public addresses → aws ec2 create-default"),
                "image": ("fault", "us-west-2 has no resolve:ssm:/nothing"),
                "role lost": ("fault", "there is no instance profile lost"),
                "spot prices": ("warning", "there is no spot price of g9.huge"),
            },
        ),
        (
            [
                lambda cluster: cluster["file_mounts"].update(a="gone.sh"),
                all_workers(ImageId="ami-00000000", IamInstanceProfile=None, InstanceType="p4d.24xlarge"),
            ],
            {
                "file_mounts": ("fault", "not here: gone.sh → run this, and ray up, in the project's folder"),
                "image": ("fault", "us-west-2 has no ami-00000000"),
                "spot quota": ("warning", "not checked for p4d.24xlarge: no G or VT spot machines"),
                "roles": ("warning", "g6-large has no IamInstanceProfile"),
                "hourly price": ("ok", "--hourly-price 1.25e-06"),  # it has eight GPUs
            },
        ),
        (
            [all_workers(ImageId="ami-0b301ce3ce347599c", InstanceMarketOptions=None)],
            {
                "image": ("ok", "ami-0b301ce3ce347599c"),
                "spot quota": ("warning", "not checked for g5.xlarge, g6.2xlarge, g6.xlarge"),
                "spot prices": ("warning", "there is no spot price of g5.xlarge, g6.2xlarge, g6.xlarge"),
            },
        ),
    ],
)
def test_what_would_go_wrong_is_found(
    changes: list[Change], findings: dict[str, tuple[str, str]], aws: Any, tmp_path: Path
) -> None:
    checks = examine(write_cluster(tmp_path, *changes))
    for name, (status, words) in findings.items():
        assert checks[name].status == status
        assert words in checks[name].line


def test_nodes_that_name_their_subnets_need_no_other(aws: Any, tmp_path: Path) -> None:
    def name_subnets(cluster: dict[str, Any]) -> None:
        for kind in cluster["available_node_types"].values():
            kind["node_config"]["SubnetIds"] = ["subnet-1"]

    assert "subnet" not in examine(write_cluster(tmp_path, name_subnets))


@pytest.mark.parametrize(
    ("quota", "status", "words"),
    [
        (0, "fault", "0 cores of G and VT spot machines, at least 4 for a worker: no worker can start → aws"),
        (3, "fault", "--quota-code L-3819A6DF --desired-value 32 --region us-west-2"),
        (11, "warning", "2 of 8 workers at once"),
        (32, "ok", "room for 8"),
    ],
)  # fmt: skip
def test_the_quota_is_held_against_the_smallest_worker_and_against_all(
    quota: float, status: str, words: str, aws: Any, tmp_path: Path
) -> None:
    check = examine(write_cluster(tmp_path), quota=quota)["spot quota"]
    assert check.status == status
    assert words in check.line


def test_a_token_that_is_missing_or_empty_is_a_fault_and_one_that_others_can_read_a_warning(
    aws: Any, tmp_path: Path
) -> None:
    token, path = tmp_path / ".ray" / "auth_token", write_cluster(tmp_path)
    token.chmod(0o644)
    assert examine(path)["token"].remedy == "chmod 600 ~/.ray/auth_token"
    token.write_text("")
    assert examine(path)["token"].status == "fault"
    token.unlink()
    assert "ray get-auth-token --generate" in examine(path)["token"].line


def test_a_profile_without_a_role_and_a_role_without_rights_are_faults(
    aws: Any, s3_bucket: str, tmp_path: Path
) -> None:
    path = write_cluster(tmp_path)
    check = examine(path, f"{s3_bucket}/team", allowed=f"{s3_bucket}/other")["policy doctor-worker"]
    assert check.status == "fault"
    actions = "s3:PutObject, s3:GetObject, s3:DeleteObject, s3:ListBucket"
    assert f"does not allow {actions} on {s3_bucket}/team/ → write bucket and prefix" in check.line
    aws.remove_role_from_instance_profile(InstanceProfileName="doctor-worker", RoleName="doctor-worker")
    check = examine(path)["role doctor-worker"]
    aws.add_role_to_instance_profile(InstanceProfileName="doctor-worker", RoleName="doctor-worker")
    assert check.status == "fault"
    assert "holds no role → aws iam add-role-to-instance-profile" in check.line


def test_a_bucket_in_the_clusters_region_is_ok(aws: Any, tmp_path: Path) -> None:
    where = {"LocationConstraint": REGION}
    boto3.client("s3", REGION).create_bucket(Bucket="in-the-west", CreateBucketConfiguration=where)
    assert examine(write_cluster(tmp_path), "s3://in-the-west")["bucket's region"].status == "ok"
    assert examine(write_cluster(tmp_path), "s3://not-there")["bucket's region"].status == "warning"


def test_what_aws_refuses_to_tell_is_a_warning_that_names_the_permission(
    aws: Any, s3_server: str, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.create_user(UserName="nobody")
    key = aws.create_access_key(UserName="nobody")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    cluster = read_cluster_file(write_cluster(tmp_path))
    start_authorization(s3_server, after="0")
    try:
        checks = {check.name: check for check in check_account(cluster, AwsAccount(REGION), s3_bucket)}
    finally:
        start_authorization(s3_server, after="inf")
    assert not [check for check in checks.values() if check.status == "fault"]
    denied = {name: check.remedy for name, check in checks.items() if check.status == "warning"}
    del denied["bucket's region"]
    permissions = {
        "instance types": "ec2:DescribeInstanceTypeOfferings",
        "spot quota": "ec2:DescribeInstanceTypeOfferings",
        "subnet": "ec2:DescribeSubnets",
        "image": "ssm:GetParameter",
        "roles": "iam:GetInstanceProfile",
        "spot prices": "ec2:DescribeInstanceTypeOfferings",
        "roles' policies": "iam:GetInstanceProfile",
    }
    assert denied == {name: f"allow {permission}, or look yourself" for name, permission in permissions.items()}


def test_the_guide_names_every_permission_that_the_doctor_uses() -> None:
    guide = (ROOT / "docs" / "cluster.md").read_text()
    source = inspect.getsource(aws_account)
    for service, operation in re.findall(r'"([a-z0-9-]+)",\s*"((?:get|describe|simulate)_\w+)"', source):
        action = f"{service.replace('-', '')}:{operation.title().replace('_', '')}"
        assert f"`{action}`" in guide or action == "sts:GetCallerIdentity", action


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "AWS does not answer: Could not connect"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "Unable to locate credentials → aws configure"),
        ({"AWS_PROFILE": "nobody"}, "The config profile (nobody) could not be found → aws configure"),
    ],
)
def test_without_a_connection_or_credentials_there_is_one_fault_and_the_rest_is_skipped(
    variables: dict[str, str], words: str, aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    *before, check = check_account(read_cluster_file(write_cluster(tmp_path)), AwsAccount(REGION), "results")
    assert [check.status for check in before] == ["ok", "ok"]
    assert (check.name, check.status) == ("credentials", "fault")
    assert words in check.line


def test_the_doctor_asks_the_account_in_place_of_a_cluster(
    aws: Any, store_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["demo", "--store", str(store_folder), "--cluster", write_cluster(tmp_path), "--json"]
    assert run_job(doctor.main, arguments) == 0
    checks = {check["name"]: check for check in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {"packages", "store", "weights", "data", "token", "credentials", "hourly price"} <= checks.keys()
    assert "cluster" not in checks
    assert checks["spot quota"]["finding"].startswith("not checked: An error occurred (NoSuchResourceException)")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda cluster: cluster["provider"].update(type="gcp"), "provider.type is gcp: only aws can be checked"),
        (lambda cluster: cluster["provider"].pop("region"), "there is no region"),
        (lambda cluster: cluster.update(max_workers="many"), "max_workers: 'many' is not of type 'integer'"),
        (lambda cluster: cluster.update(head_node_type="other"), "must have head_node_type, and a type of workers"),
        (lambda cluster: cluster.pop("available_node_types"), "'available_node_types' is a required property"),
        (lambda cluster: cluster["file_mounts"].update(a=1), "file_mounts.a: 1 is not of type 'string'"),
        (all_workers(InstanceType=None), "there is no InstanceType"),
        (all_workers(IamInstanceProfile="doctor-worker"), "Invalid type for parameter IamInstanceProfile"),
        (all_workers(Imageid="ami-1"), 'Unknown parameter in input: "Imageid"'),
    ],
)
def test_a_cluster_file_that_cannot_be_used_is_one_line(
    change: Change, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_cluster(tmp_path, change)
    assert run_job(doctor.main, ["demo", "--store", str(tmp_path), "--cluster", path]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith(f"error: --cluster {path}: ")
    assert words in said.err


@pytest.mark.parametrize(
    ("text", "words"),
    [(b"a: [", "line 1: "), (b"\xff", "can't decode"), (b"3", "3 is not of type 'object'"), (None, "No such file")],
)
def test_a_cluster_file_that_cannot_be_read_is_one_line(text: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(UserError, match=words) as mistake:
        read_cluster_file(str(path))
    assert str(mistake.value).startswith(f"--cluster {path}: ")
