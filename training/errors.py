"""The errors this package raises for people: what was being done, what was expected, what was found."""


class TrainingError(Exception):
    """Training cannot go on; the message names the step or file, the expected and the found."""


class SampleError(TrainingError):
    """One sample cannot be used: file and place, what was being done, the expected and the found."""

    def __init__(self, where: str, action: str, expected: str, found: str) -> None:
        super().__init__(f"{where}: {action}: expected {expected}, found {found}")
        self.where, self.action, self.expected, self.found = where, action, expected, found


class DeniedError(SampleError):
    """The clip was taken down: it may not be used, whatever its bytes are."""


class StorageError(TrainingError):
    """A store that holds shards does not answer. That says nothing of a clip: the run ends here, and the same command goes on."""


class CheckpointError(TrainingError):
    """A checkpoint is incomplete or damaged, or does not fit the model; the message names the file."""


class SilentError(SampleError):
    """A drawn window of sound in which nothing is heard: another sample takes its place, and it does not count as broken."""
