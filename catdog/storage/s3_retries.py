"""A retrying S3 client: what its errors mean, and how long operations are retried.

Operations retry for as long as the store's patience allows, on top of boto3's own few quick retries. A refusal (no such
bucket, no permission) is raised at once if the store has never answered; otherwise it is retried with freshly loaded
credentials, since they may have been renewed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from catdog.errors import NotFoundError, StoreError, StoreRefusedError, first_line
from catdog.formatting import shorten
from catdog.storage.patience import Patience
from catdog.storage.s3_client import open_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
CONDITION_FAILED = frozenset({"PreconditionFailed", "412"})
CONDITION_UNKNOWN = frozenset({"NotImplemented", "501"})
"""From a store that reports having no conditional writes; others silently ignore the condition."""
_REFUSED = frozenset({"AuthorizationHeaderMalformed", "InvalidArgument", "InvalidRequest", "MethodNotAllowed"})
"""Refusals besides those of status 403 and 501, and those of the key management service."""
_ACTIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
}
"""What a policy must allow, where it is not called as the operation is."""
_REMEDIES = {
    "RequestTimeTooSkewed": "set this machine's clock",
    "QuotaExceeded": "make room",
    "NotImplemented": "adapt boto3's settings to this store",
}
_EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired", "InvalidToken", "400"}
)
"""Includes 400, which may mean it: the response to a HEAD request has no body that says more."""


class RetryingClient:
    """boto3's client for a bucket, opened on first use.

    `patience` is how many seconds an operation is retried while the store is unavailable; `has_answered`, whether the
    bucket is known to be accessible, so that refusals are retried, too.
    """

    def __init__(self, url: str, endpoint: str | None, region: str | None, patience: float, has_answered: bool) -> None:
        self.url = url
        self.bucket = url.removeprefix("s3://").partition("/")[0]
        self.has_answered = has_answered
        self.patience = Patience(patience)
        self._endpoint, self._region = endpoint, region
        self._opened: S3Client | None = None

    @property
    def client(self) -> "S3Client":
        """Return the client, opening it if necessary."""
        client = self._opened or open_client(self._endpoint, self._region, self.patience.seconds)
        self._opened = client
        return client

    def request(self, key: str, operation: Callable[["S3Client"], T]) -> T:
        """Run `operation`, retrying while the store is unavailable until the patience runs out."""

        def attempt() -> T:
            try:
                with self.errors(key):
                    result = operation(self.client)
            except NotFoundError:
                self.has_answered = True
                raise
            except (StoreRefusedError, _CredentialsExpiredError):
                self._opened = None  # the next attempt loads the credentials afresh
                raise
            self.has_answered = True
            return result

        def may_pass(error: StoreError) -> bool:
            is_refused = isinstance(error, StoreRefusedError)
            return not isinstance(error, NotFoundError) and (self.has_answered or not is_refused)

        return self.patience.retry(attempt, may_pass)

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Translate boto3's errors into ours."""
        from boto3.exceptions import Boto3Error, RetriesExceededError, S3UploadFailedError
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConfigParseError,
            NoCredentialsError,
            PartialCredentialsError,
            ProfileNotFound,
        )
        from botocore.parsers import ResponseParserError
        from urllib3.exceptions import HTTPError  # of an answer's rest: boto3 lets some pass, as a fault of TLS

        try:
            try:
                yield
            except S3UploadFailedError as error:  # boto3 wraps the actual error
                raise error.__context__ or error from None
            except RetriesExceededError as error:
                raise error.last_exception from None  # type: ignore[attr-defined]
        except ClientError as error:
            code = error_code(error)
            if code == "NoSuchBucket":
                raise StoreRefusedError(
                    f"--store {self.url}: there is no bucket {self.bucket!r}: create it, or check the endpoint"
                ) from None
            if code in MISSING:
                raise NotFoundError(f"{self.url}/{key}: no such object") from None
            if _is_refusal(error):
                raise StoreRefusedError(f"--store {self.url}: {self._refusal(key, error)}") from None
            kind = _CredentialsExpiredError if code in _EXPIRED else StoreError
            raise kind(f"{self.url}/{key}: {first_line(error)}") from error
        except NoCredentialsError:
            raise StoreRefusedError(
                f"--store {self.url}: boto3 finds no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "a profile, or an instance profile"
            ) from None
        except (ConfigParseError, PartialCredentialsError, ProfileNotFound) as error:
            raise StoreRefusedError(
                f"--store {self.url}: {error}: correct the credentials file, or AWS_PROFILE"
            ) from None
        except (BotoCoreError, Boto3Error, ResponseParserError, HTTPError, OSError) as error:
            raise StoreError(f"{self.url}/{key}: {first_line(error)}") from error

    def _refusal(self, key: str, error: Any) -> str:
        """Return what is refused, in the words of a policy, and why, in the server's."""
        code = error_code(error)
        action = _ACTIONS.get(error.operation_name, f"s3:{error.operation_name}")
        what = "access denied" if _status(error) == 403 and code not in _REMEDIES else "refused"
        place = f"{self.url.removeprefix('s3://')}/{key}"
        quote = shorten(" ".join(str(error.response.get("Error", {}).get("Message", "")).split()), 120)
        encryption = ", or set CATDOG_STORE_ENCRYPTION if it demands that" if action == "s3:PutObject" else ""
        remedy = _REMEDIES.get(code, f"check credentials and the bucket's policy{encryption}")
        return f"{what}: {action} on {place} ({code}: {quote}): {remedy}"


class _CredentialsExpiredError(StoreError):
    """The credentials will be renewed; boto3 must load them again."""


def error_code(error: Any) -> str:
    """Return S3's code for an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_refusal(error: Any) -> bool:
    """Return whether the same request would be refused again."""
    code = error_code(error)
    is_fixed = _status(error) in (403, 501) or code in _REFUSED or code.startswith("KMS.")
    return is_fixed and code not in _EXPIRED
