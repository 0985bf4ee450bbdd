"""A store in memory: for tests and notebooks."""

from pathlib import Path

from catdog.errors import NotFoundError


class MemoryStore:
    """Objects in a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return "memory"

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = bytes(data)

    def put_new(self, key: str, data: bytes) -> bool:
        return self.objects.setdefault(key, bytes(data)) == data

    def get(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise NotFoundError(f"memory/{key}: no such object") from None

    def put_file(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def get_file(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.get(key))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def list(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def exists(self, key: str) -> bool:
        return key in self.objects

    def check(self) -> None:
        pass

    def hurry(self, on: bool = True) -> None:
        pass

    def tidy(self, prefix: str) -> None:
        pass
