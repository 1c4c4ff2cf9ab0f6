"""The attempts at a trial since it last came further: so that a passing fault ends nothing, and a lasting one is told.

Ray Train starts the workers of a trial again whenever one fails or is lost, and Ray Tune its driver; both do so without
limit, since on spot machines that is no fault of the trial. The limit is here: each attempt begins with a look at what
the attempts before it noted in a small file beside the trial's checkpoints. The first progress removes the file.
"""

from dataclasses import asdict, dataclass, replace

from dmsae_ray.files import Folder, decode_record, encode_record

ATTEMPTS_FILE, FAILURE_FILE = "attempts.json", "failure.json"
LOSSES_PER_FAILURE = 10
"""A lost worker may be lost to its machine, so that this many losses weigh as much as one error of the trial."""


@dataclass(frozen=True)
class Attempts:
    """What happened since the trial last came further.

    Attributes:
        session: The command that began them. Another command begins anew: what was wrong may be mended.
        begun: Attempts begun by a driver or by workers, this one included.
        failed: Attempts among them that ended with an error which may come of the trial itself.
        reason: The last such error, in one line; empty if there was none.
    """

    session: str
    begun: int = 0
    failed: int = 0
    reason: str = ""


class AttemptLog:
    """The file of a trial's attempts, on the storage that all its workers share.

    Args:
        folder: Folder of the trial's checkpoints.
        most: Failures without progress that are allowed.
        session: A name that all attempts of one command share.
    """

    def __init__(self, folder: Folder, most: int, session: str) -> None:
        self._folder, self._most, self._session = folder, most, session
        self._came_further = False

    def begin(self) -> str | None:
        """Note that an attempt begins; the driver calls it, and one worker of the trial.

        Returns:
            Why no other attempt makes sense; None if this one may go on.
        """
        before = self._read()
        failure = self._folder.read(FAILURE_FILE)
        if failure is not None:
            noted = decode_record(failure, self._folder / FAILURE_FILE)
            if noted["session"] == self._session:
                if noted["permanent"]:
                    return str(noted["reason"])
                before = replace(before, failed=before.failed + 1, reason=str(noted["reason"]))
            self._folder.delete(FAILURE_FILE)
        now = replace(before, begun=before.begun + 1)
        if now.failed > self._most:
            return f"{now.reason} (failed {now.failed} times without progress; resources.max_failures is {self._most})"
        losses = now.begun - 1 - now.failed
        if losses > LOSSES_PER_FAILURE * (self._most + 1):
            return (
                f"its workers were lost {losses} times without progress (killed, out of memory, or their machines were "
                "taken away; Ray's log says which): give a worker more memory, or take other machines"
            )
        self._folder.write(ATTEMPTS_FILE, [encode_record(asdict(now))])
        return None

    def fail(self, reason: str, *, permanent: bool) -> None:
        """Note why this attempt failed; the driver or any worker may call it.

        The first one counts: where one worker fails, the others fail of it.

        Args:
            reason: The error, in one line.
            permanent: Whether no other attempt makes sense.
        """
        failure = {"session": self._session, "reason": reason, "permanent": permanent}
        if self._folder.size(FAILURE_FILE) is None:
            self._folder.write(FAILURE_FILE, [encode_record(failure)])

    def progress(self) -> None:
        """Note that the trial has come further: what happened before is forgotten."""
        if not self._came_further:
            self._came_further = True
            self._folder.delete(ATTEMPTS_FILE)

    def _read(self) -> Attempts:
        content = self._folder.read(ATTEMPTS_FILE)
        if content is not None:
            noted = Attempts(**decode_record(content, self._folder / ATTEMPTS_FILE))
            if noted.session == self._session:
                return noted
        return Attempts(self._session)
