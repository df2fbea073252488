"""A server on a disk that is really full: clear answers, nothing half or lost, and it goes on when there is room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from soledad.errors import StorageFull
from soledad.server.schema import reservations
from tests.crash.mounts import fill_up, run, small_disk
from tests.crash.serving import FolderTestCase, noise
from tests.server.support import USER, code, content, headers, status
from tests.server.test_stream import UPLOAD, upload

MIB = 1024 * 1024
FULL = (507, "storage_full")


class FullDiskTests(FolderTestCase):
    """A small disk, filled to the last byte in several ways."""

    def setUp(self) -> None:
        """Serve a folder that was served before: what is in the database is not only in its log."""
        super().setUp()
        self.close(self.opened[-1])
        self.serve(self.folder)

    def make_disk(self) -> Path:
        """Return a small file system."""
        self.disk = small_disk(self, 3 * MIB)
        self.blobs: dict[str, int] = {}
        self.pushes = 0
        return self.disk

    def tearDown(self) -> None:
        """Forget what the server has told its operator."""
        self.flushLoggedErrors(StorageFull)

    # --- ways of filling it ---------------------------------------------------------------------------

    def put_next(self, size: int) -> bytes:
        """Store one more blob; return the answer."""
        name = f"blob-{len(self.blobs)}"
        answer = self.put_it(name, size)
        if status(answer) == 201:
            self.blobs[name] = size
        return answer

    def batch_next(self, size: int) -> bytes:
        """Store a batch; return the answer."""
        names = [f"batch-{len(self.blobs)}-{at}" for at in range(10)]
        answer = self.ask(f"POST {UPLOAD}", upload(*((name, noise(name, size)) for name in names)))
        if status(answer) == 200:
            self.blobs.update(dict.fromkeys(names, size))
        return answer

    def upload_next(self, size: int) -> bytes:
        """Store one more blob in parts; return the answer that ended it."""
        name = f"upload-{len(self.blobs)}"
        answer = self.create(size, blob=name)
        if status(answer) == 201:
            path = self.path(answer)
            told = 0
            for start in range(0, size, size // 2):
                answer = self.patch_it(path, start, noise(name, size)[start : start + size // 2])
                if status(answer) != 204:
                    break
                told = int(headers(answer)["upload-offset"])
            else:
                self.blobs[name] = size
                return answer
            self.assertGreaterEqual(int(headers(self.head_it(path))["upload-offset"]), told)
            # A client that gives up says so.
            self.tus(f"DELETE {path}", Tus_Resumable="1.0.0")
        return answer

    def push_next(self, size: int) -> bytes:
        """Push; return the answer."""
        answer = self.push_it(self.pushes + 1)
        self.pushes += status(answer) == 204
        return answer

    def fill(self, step: Callable[[int], bytes], size: int) -> None:
        """Store until there is no room, and a few times more."""
        refused = 0
        for _ in range(1000):
            answer = step(size)
            if status(answer) >= 300:
                self.assertEqual((status(answer), code(answer)), FULL)
                refused += 1
            if refused > 4:
                return
        self.fail("the disk is not full")

    # --- what has to hold -----------------------------------------------------------------------------

    def assertWhole(self) -> None:
        """All that was acknowledged is there, nothing else, and no file is left over."""
        self.assertEqual(set(self.stored()), set(self.blobs))
        self.assertStored(*self.blobs.items())
        files = [path for path in (self.folder / "blobs").rglob("*") if path.is_file()]
        self.assertEqual(len(files), len(self.blobs))
        if self.pushes:
            self.assertPushed(self.pushes)

    def assertNothingHeld(self) -> None:
        """After tidying up no room is set aside any more, and no buffer is held."""
        self.assertEqual(self.successResultOf(self.backend.sweep()), 0)
        held = self.accounts.database.now(lambda connection: connection.execute(reservations.select()).all())
        self.assertEqual((held, self.budget.used), ([], 0))

    def play(self, step: Callable[[int], bytes], size: int) -> None:
        """Fill the disk, look, fill it to the last byte, look again, and go on when there is room."""
        self.fill(step, size)
        self.assertWhole()
        ballast = fill_up(self.disk)
        self.assertEqual({code(self.put_it(f"more-{number}", 100_000)) for number in range(3)}, {"storage_full"})
        self.assertWhole()
        ballast.unlink()
        run("mount", "-o", f"remount,size={16 * MIB}", self.disk)
        self.assertEqual(self.check(), [])
        for again in (step, self.put_next, self.batch_next, self.upload_next, self.push_next):
            self.assertLess(status(again(size)), 300)
        self.assertWhole()
        self.assertNothingHeld()
        self.assertEqual(self.check(), [])

    def test_blobs(self) -> None:
        """With blobs."""
        self.play(self.put_next, 100_000)

    def test_small_blobs(self) -> None:
        """With small ones, of which the index takes the most."""
        self.play(self.put_next, 4096)

    def test_batches(self) -> None:
        """With batches."""
        self.play(self.batch_next, 20_000)

    def test_uploads(self) -> None:
        """With uploads in parts."""
        self.play(self.upload_next, 100_000)

    def test_documents(self) -> None:
        """With records of documents: each push replaces all, and the log of the index grows."""
        self.put_next(2_000_000)
        self.play(self.push_next, 1000)

    def test_keyring(self) -> None:
        """A keyring that cannot be replaced stays as it is."""
        answer = self.ask(f"PUT /keys/{USER}", b"first", If_None_Match="*")
        tag = headers(answer)["etag"]
        self.fill(self.put_next, 4096)
        fill_up(self.disk)
        for number in range(200):
            answer = self.ask(f"PUT /keys/{USER}", noise(f"key{number}", 8000), If_Match=tag)
            if status(answer) != 204:
                break
            tag = headers(answer)["etag"]
        self.assertEqual((status(answer), code(answer)), FULL)
        self.assertEqual(headers(self.ask(f"GET /keys/{USER}"))["etag"], tag)
        run("mount", "-o", f"remount,size={16 * MIB}", self.disk)
        answer = self.ask(f"PUT /keys/{USER}", b"last", If_Match=tag)
        self.assertEqual(status(answer), 204)
        self.assertEqual(content(self.ask(f"GET /keys/{USER}")), b"last")

    def test_goes_on_by_deleting(self) -> None:
        """Who deletes has room again."""
        self.fill(self.put_next, 100_000)
        name = next(iter(self.blobs))
        self.assertEqual(status(self.ask(f"DELETE /blobs/{USER}/{name}")), 204)
        del self.blobs[name]
        self.assertEqual(status(self.put_it("other", 90_000)), 201)
        self.blobs["other"] = 90_000
        self.assertWhole()

    def test_resumed(self) -> None:
        """An upload that found no room goes on from what was kept of it."""
        path = self.path(self.create(200_000, blob="resumed"))
        self.fill(self.put_next, 50_000)
        data = noise("resumed", 200_000)
        answer = self.patch_it(path, 0, data)
        self.assertEqual((status(answer), code(answer)), FULL)
        run("mount", "-o", f"remount,size={16 * MIB}", self.disk)
        told = int(headers(self.head_it(path))["upload-offset"])
        self.assertEqual(status(self.patch_it(path, told, data[told:])), 204)
        self.blobs["resumed"] = 200_000
        self.assertWhole()
        self.assertEqual(self.check(), [])
