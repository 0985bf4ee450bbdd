"""Questions to AWS about an account in one region, answered with plain data; none starts, changes or costs anything.

Source: the API references of EC2, IAM, S3, Service Quotas, SSM and STS, https://docs.aws.amazon.com/.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as AwsConnectionError
from botocore.loaders import Loader, create_loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from catdog.errors import CatdogError, first_line
from catdog.storage.s3_retries import error_code

_QUICK = Config(connect_timeout=5, read_timeout=15, retries={"mode": "standard", "total_max_attempts": 2})
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"})
_MISSING = frozenset({"InvalidAMIID.Malformed", "InvalidAMIID.NotFound", "NoSuchEntity", "ParameterNotFound"})
_OF_RAY = frozenset({"SubnetIds"})
"""What Ray reads of a node's configuration itself."""
SSM_IMAGE = "resolve:ssm:"
"""Begins an image's id that AWS looks up in a public parameter."""


class AwsError(CatdogError):
    """AWS does not answer a question; the message says why."""


class AwsUnreachableError(AwsError):
    """No answer came."""


class AwsDeniedError(AwsError):
    """The caller may not ask; `permission` is what a policy must allow."""

    def __init__(self, permission: str) -> None:
        super().__init__(f"these credentials may not {permission}")
        self.permission = permission


@dataclass(frozen=True)
class InstanceType:
    """A type of machine."""

    cores: int
    """As quotas count them: vCPUs."""
    gpus: int


@dataclass(frozen=True)
class Subnet:
    """A subnet in which machines can be started."""

    vpc: str
    zone: str
    is_public: bool
    """Machines get a public address."""


class AwsAccount:
    """The account of this process's credentials, in a region. Every question raises `AwsError` without an answer."""

    def __init__(self, region: str) -> None:
        self.region = region

    @functools.cache  # noqa: B019  (one account per process)
    def client(self, service: str) -> Any:
        """Return botocore's client for a service, which gives up within seconds."""
        session = botocore.session.get_session()
        session.register_component("data_loader", _loader())
        return session.create_client(service, region_name=self.region, config=_QUICK)

    def _ask(self, service: str, operation: str, **parameters: Any) -> dict[str, Any] | None:
        """Return an operation's answer; None if what it asks for does not exist."""
        try:
            with _errors():
                answer: dict[str, Any] = getattr(self.client(service), operation)(**parameters)
                return answer
        except ClientError as error:
            code = error_code(error)
            if code in _MISSING:
                return None
            if code in _DENIED:
                raise AwsDeniedError(f"{service.replace('-', '')}:{error.operation_name}") from None
            raise AwsError(first_line(error)) from None

    def caller(self) -> str:
        """Return the ARN of whoever the credentials belong to."""
        return str((self._ask("sts", "get_caller_identity") or {})["Arn"])

    @functools.cache  # noqa: B019
    def instance_types(self, names: frozenset[str]) -> dict[str, InstanceType]:
        """Return those of the types that the region offers."""
        named = [{"Name": "instance-type", "Values": sorted(names)}]
        offers = self._ask("ec2", "describe_instance_type_offerings", LocationType="region", Filters=named) or {}
        offered = sorted(offer["InstanceType"] for offer in offers["InstanceTypeOfferings"])
        if not offered:
            return {}
        answer = self._ask("ec2", "describe_instance_types", InstanceTypes=offered) or {}
        return {
            kind["InstanceType"]: InstanceType(
                kind["VCpuInfo"]["DefaultVCpus"], sum(gpu["Count"] for gpu in kind.get("GpuInfo", {}).get("Gpus", []))
            )
            for kind in answer["InstanceTypes"]
        }

    def quota(self, code: str) -> float:
        """Return one of EC2's quotas in the region."""
        answer = self._ask("service-quotas", "get_service_quota", ServiceCode="ec2", QuotaCode=code) or {}
        return float(answer["Quota"]["Value"])

    def subnets(self) -> list[Subnet]:
        """Return the region's available subnets."""
        answer = self._ask("ec2", "describe_subnets", Filters=[{"Name": "state", "Values": ["available"]}]) or {}
        return [
            Subnet(subnet["VpcId"], subnet["AvailabilityZone"], subnet["MapPublicIpOnLaunch"])
            for subnet in answer["Subnets"]
        ]

    def image(self, name: str) -> str | None:
        """Return the id of an image, which `resolve:ssm:PARAMETER` may name; None if there is none."""
        if name.startswith(SSM_IMAGE):
            answer = self._ask("ssm", "get_parameter", Name=name.removeprefix(SSM_IMAGE))
            return None if answer is None else str(answer["Parameter"]["Value"])
        answer = self._ask("ec2", "describe_images", ImageIds=[name])
        return name if answer is not None and answer["Images"] else None

    @functools.cache  # noqa: B019
    def profile_roles(self, name: str) -> list[str] | None:
        """Return the ARNs of the roles in an instance profile (at most one); None if there is no such profile."""
        answer = self._ask("iam", "get_instance_profile", InstanceProfileName=name)
        return None if answer is None else [role["Arn"] for role in answer["InstanceProfile"]["Roles"]]

    def denied_actions(
        self, role: str, actions: Sequence[str], resource: str, context: Mapping[str, str] | None = None
    ) -> list[str]:
        """Return those of the actions on a resource that a role's policies do not allow; `context` has condition keys.

        AWS simulates no bucket policies for roles.
        """
        entries = [
            {"ContextKeyName": key, "ContextKeyType": "string", "ContextKeyValues": [value]}
            for key, value in (context or {}).items()
        ]
        answer = self._ask(
            "iam", "simulate_principal_policy",
            PolicySourceArn=role, ActionNames=list(actions), ResourceArns=[resource], ContextEntries=entries,
        ) or {}  # fmt: skip
        results = answer["EvaluationResults"]
        return [result["EvalActionName"] for result in results if result["EvalDecision"] != "allowed"]

    def bucket_region(self, bucket: str) -> str | None:
        """Return a bucket's region, which S3 also tells those whom it refuses; None if there is no such bucket."""
        try:
            with _errors():
                answer: Any = self.client("s3").head_bucket(Bucket=bucket)
        except ClientError as error:
            answer = error.response
        region: str | None = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
        return region

    def spot_prices(self, names: Sequence[str]) -> dict[str, tuple[float, str]]:
        """Return the price now of each type that has one, in USD for an hour in the cheapest zone, and that zone."""
        answer = self._ask(
            "ec2", "describe_spot_price_history",
            InstanceTypes=list(names), ProductDescriptions=["Linux/UNIX"], StartTime=datetime.now(UTC),
        ) or {}  # fmt: skip
        prices = [
            (float(price["SpotPrice"]), price["AvailabilityZone"], price["InstanceType"])
            for price in answer["SpotPriceHistory"]
        ]
        return {name: (price, zone) for price, zone, name in sorted(prices, reverse=True)}


@contextmanager
def _errors() -> Iterator[None]:
    """Translate botocore's own errors; `ClientError`, AWS's answer, is none of them."""
    try:
        yield
    except (AwsConnectionError, HTTPClientError) as error:
        raise AwsUnreachableError(first_line(error)) from None
    except BotoCoreError as error:
        raise AwsError(first_line(error)) from None


@functools.cache
def _loader() -> Loader:
    """Return what reads botocore's models, once each: EC2's takes half a second."""
    return create_loader()


def launch_mistake(parameters: Mapping[str, Any]) -> str | None:
    """Return what EC2 would reject in a node's parameters (misspelt keys, wrong kinds of values); None if nothing."""
    model = ServiceModel(_loader().load_service_model("ec2", "service-2"), "ec2")
    launch: Any = model.operation_model("RunInstances").input_shape
    given = {key: value for key, value in parameters.items() if key not in _OF_RAY}
    report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1} | given, launch)
    return report.generate_report().splitlines()[0] if report.has_errors() else None
