"""The doctor's checks before `ray up`: the files that nodes get, and the AWS account. They start nothing."""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from catdog.storage.aws_account import AwsAccount, AwsDeniedError, AwsError, AwsUnreachableError
from catdog.sweep.cluster_file import ClusterFile
from catdog.sweep.doctor_nodes import Check

TOKEN = "~/.ray/auth_token"
"""Where Ray reads the token, on every node and here."""
SPOT_QUOTA = "L-3819A6DF"
"""All G and VT Spot Instance Requests, in vCPUs."""
OBJECT_ACTIONS = ("s3:PutObject", "s3:GetObject", "s3:DeleteObject")
SET_UP = "the commands at the top of cluster.yaml create it"


def check_account(cluster: ClusterFile, account: AwsAccount, store: str) -> Iterator[Check]:
    """Yield findings on the files that nodes get and on the account; `store` is the store's URL.

    What AWS refuses to tell is a warning. Without credentials or a connection there is one fault, and no more.
    """
    yield _check_token(cluster)
    yield from _check_files(cluster)
    checks: dict[str, Callable[[ClusterFile, AwsAccount], Iterator[Check]]] = {
        "credentials": _check_caller,
        "instance types": _check_types,
        "spot quota": _check_quota,
        "subnet": _check_subnets,
        "image": _check_images,
        "roles": _check_roles,
        "spot prices": _check_prices,
    }
    if store.startswith("s3://"):
        bucket, _, prefix = store.removeprefix("s3://").partition("/")
        checks["bucket's region"] = functools.partial(_check_bucket, bucket=bucket)
        checks["roles' policies"] = functools.partial(_check_policies, bucket=bucket, prefix=prefix)
    for name, check in checks.items():
        try:
            yield from check(cluster, account)
        except AwsError as error:
            unanswered = _unanswered(name, error)
            yield unanswered
            if unanswered.status == "fault":
                return


def _unanswered(name: str, error: AwsError) -> Check:
    if isinstance(error, AwsUnreachableError):
        remedy = "check the network, and the region in cluster.yaml"
        return Check(name, "fault", f"AWS does not answer: {error}", remedy)
    if name == "credentials":
        return Check(name, "fault", str(error), "aws configure, or AWS_PROFILE; some regions must be enabled first")
    remedy = f"allow {error.permission}, or look yourself" if isinstance(error, AwsDeniedError) else ""
    return Check(name, "warning", f"not checked: {error}", remedy)


def _check_token(cluster: ClusterFile) -> Check:
    """Look for the token: `ray up` starts the head first, and only then misses it."""
    local = cluster.file_mounts.get(TOKEN)
    if local is None:
        return Check("token", "fault", f"file_mounts has no {TOKEN}", f"add {TOKEN}: {TOKEN}")
    path = Path(os.path.expanduser(local))
    if not path.is_file() or not path.stat().st_size:
        return Check("token", "fault", f"{local} is missing or empty", "ray get-auth-token --generate")
    if path.stat().st_mode & 0o077:
        return Check("token", "warning", f"others on this machine can read {local}", f"chmod 600 {local}")
    return Check("token", "ok", f"{local} goes to every node")


def _check_files(cluster: ClusterFile) -> Iterator[Check]:
    paths = [local for node, local in cluster.file_mounts.items() if node != TOKEN]
    missing = [local for local in paths if not Path(os.path.expanduser(local)).exists()]
    if missing:
        where = "run this, and ray up, in the project's folder"
        yield Check("file_mounts", "fault", f"not here: {', '.join(missing)}", where)
    elif paths:
        yield Check("file_mounts", "ok", f"all here: {', '.join(paths)}")


def _check_caller(cluster: ClusterFile, account: AwsAccount) -> Iterator[Check]:
    yield Check("credentials", "ok", f"{account.caller()} in {account.region}")


def _check_types(cluster: ClusterFile, account: AwsAccount) -> Iterator[Check]:
    """Look for types that the region lacks: a single one keeps Ray from detecting the GPUs of all types."""
    names = frozenset(node.instance_type for node in cluster.nodes)
    offered = account.instance_types(names)
    missing = sorted(names - offered.keys())
    if missing:
        finding = f"{account.region} does not offer {', '.join(missing)}: Ray then finds no GPU on any type"
        yield Check("instance types", "fault", finding, "remove it from cluster.yaml, or choose another region")
    else:
        shown = ", ".join(f"{name} ({kind.cores} cores, {kind.gpus} GPU)" for name, kind in sorted(offered.items()))
        yield Check("instance types", "ok", f"{account.region} offers {shown}")


def _check_quota(cluster: ClusterFile, account: AwsAccount) -> Iterator[Check]:
    """Compare the spot quota with the smallest worker and with as many of them as the cluster may have."""
    spot = frozenset(node.instance_type for node in cluster.workers if node.is_spot)
    counted = frozenset(name for name in spot if name.startswith(("g", "vt")))
    others = sorted({node.instance_type for node in cluster.workers} - counted)
    if others:
        yield Check("spot quota", "warning", f"not checked for {', '.join(others)}: no G or VT spot machines")
    sizes = [kind.cores for kind in account.instance_types(counted).values()] if counted else []
    if not sizes:
        return
    quota, smallest = account.quota(SPOT_QUOTA), min(sizes)
    wanted = cluster.max_workers * smallest
    finding = f"{quota:g} cores of G and VT spot machines, at least {smallest} for a worker"
    remedy = (
        "aws service-quotas request-service-quota-increase --service-code ec2 "
        f"--quota-code {SPOT_QUOTA} --desired-value {wanted} --region {account.region}"
    )
    if quota < smallest:
        yield Check("spot quota", "fault", f"{finding}: no worker can start", remedy)
    elif quota < wanted:
        fitting = f"{int(quota // smallest)} of {cluster.max_workers} workers at once"
        yield Check("spot quota", "warning", f"{finding}: {fitting}", remedy)
    else:
        yield Check("spot quota", "ok", f"{finding}: room for {cluster.max_workers}")


def _check_subnets(cluster: ClusterFile, account: AwsAccount) -> Iterator[Check]:
    """Look for a subnet as Ray does for nodes whose configuration names none."""
    if all({"SubnetIds", "NetworkInterfaces"} & node.launch.keys() for node in cluster.nodes):
        return
    usable = [
        subnet
        for subnet in account.subnets()
        if (subnet.is_public or not cluster.has_public_addresses)
        and (not cluster.zones or subnet.zone in cluster.zones)
    ]
    if usable:
        vpcs, zones = ({getattr(subnet, name) for subnet in usable} for name in ("vpc", "zone"))
        yield Check("subnet", "ok", f"in {', '.join(sorted(zones))} ({', '.join(sorted(vpcs))})")
    else:
        where = (
            f"{' or '.join(cluster.zones) or account.region}{' with public addresses' * cluster.has_public_addresses}"
        )
        remedy = f"aws ec2 create-default-vpc --region {account.region}, or SubnetIds in every node_config"
        yield Check("subnet", "fault", f"there is none in {where}", remedy)


def _check_images(cluster: ClusterFile, account: AwsAccount) -> Iterator[Check]:
    """Look up the images; without one, or with `latest_dlami`, Ray takes its own."""
    for name in dict.fromkeys(node.launch.get("ImageId", "") for node in cluster.nodes):
        if name.lower() in ("", "latest_dlami"):
            continue
        image = account.image(name)
        if image is None:
            remedy = "ids differ by region: correct ImageId in cluster.yaml"
            yield Check("image", "fault", f"{account.region} has no {name}", remedy)
        else:
            yield Check("image", "ok", image if image == name else f"{image}, from {name}")


def _profiles(cluster: ClusterFile) -> list[str]:
    return list(dict.fromkeys(node.profile for node in cluster.nodes if node.profile is not None))


def _check_roles(cluster: ClusterFile, account: AwsAccount) -> Iterator[Check]:
    for node in cluster.nodes:
        if node.profile is None:
            remedy = "name one in its node_config whose role has access to the store"
            yield Check("roles", "warning", f"{node.name} has no IamInstanceProfile", remedy)
    for name in _profiles(cluster):
        roles = account.profile_roles(name)
        if roles is None:
            yield Check(f"role {name}", "fault", f"there is no instance profile {name}", SET_UP)
        elif not roles:
            remedy = f"aws iam add-role-to-instance-profile --instance-profile-name {name} --role-name {name}"
            yield Check(f"role {name}", "fault", f"the instance profile {name} holds no role", remedy)
        else:
            yield Check(f"role {name}", "ok", f"the instance profile {name} holds {', '.join(roles)}")


def _check_bucket(cluster: ClusterFile, account: AwsAccount, bucket: str) -> Iterator[Check]:
    region = account.bucket_region(bucket)
    if region is None:
        yield Check("bucket's region", "warning", f"not known: {bucket} does not tell it")
    elif region != account.region:
        finding = f"{bucket} is in {region}, the cluster in {account.region}: traffic between regions costs money"
        yield Check("bucket's region", "warning", finding, f"region: {region} in cluster.yaml, or another bucket")
    else:
        yield Check("bucket's region", "ok", f"{bucket} is in {region}, too")


def _check_policies(cluster: ClusterFile, account: AwsAccount, bucket: str, prefix: str) -> Iterator[Check]:
    """Let AWS simulate the roles' policies on the store's prefix."""
    below = f"{prefix}/" if prefix else ""
    for name in _profiles(cluster):
        for role in account.profile_roles(name) or ():
            place = f"arn:{role.split(':')[1]}:s3:::{bucket}"
            denied = [
                *account.denied_actions(role, OBJECT_ACTIONS, f"{place}/{below}doctor"),
                *account.denied_actions(role, ("s3:ListBucket",), place, {"s3:prefix": below}),
            ]
            where = f"s3://{bucket}/{below}"
            if denied:
                remedy = "write bucket and prefix into deploy/iam-policy.json, and put it to the role again"
                yield Check(f"policy {name}", "fault", f"does not allow {', '.join(denied)} on {where}", remedy)
            else:
                yield Check(f"policy {name}", "ok", f"allows to read, write, list and delete below {where}")


def _check_prices(cluster: ClusterFile, account: AwsAccount) -> Iterator[Check]:
    """Report the price of each type of spot worker, and what a GPU for an hour costs at most."""
    spot = frozenset(node.instance_type for node in cluster.workers if node.is_spot)
    offered = account.instance_types(spot) if spot else {}
    prices = account.spot_prices(sorted(offered)) if offered else {}
    for name, (price, zone) in sorted(prices.items()):
        yield Check(f"price {name}", "ok", f"{name} {price:.3g} USD/h in {zone}")
    unknown = sorted({node.instance_type for node in cluster.workers} - prices.keys())
    if unknown:
        remedy = "for --hourly-price see AWS's price list"
        yield Check("spot prices", "warning", f"there is no spot price of {', '.join(unknown)}", remedy)
    if prices:
        units = {name: kind.gpus or kind.cores for name, kind in offered.items()}
        dearest = max(price / units[name] for name, (price, _) in prices.items())
        finding = "of one GPU (of one core of a type without) of the dearest type"
        yield Check("hourly price", "ok", finding, f"--hourly-price {dearest:.3g}")
