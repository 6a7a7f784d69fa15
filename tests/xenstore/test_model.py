# SPDX-License-Identifier: GPL-2.0-or-later
"""The tree with its transactions against a plain dict: whatever is committed, happened at one instant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from xen_shadowvq.embedded.xs_domain import Domain
from xen_shadowvq.embedded.xs_limits import Limits
from xen_shadowvq.embedded.xs_ops import Dispatcher
from xen_shadowvq.embedded.xs_store import Store
from xen_shadowvq.embedded.xs_tree import Transaction
from xen_shadowvq.embedded.xs_watch import WatchRegistry
from xen_shadowvq.embedded.xs_wire import Message, Op

Tree = dict[str, bytes]
Operation = Callable[[Tree], object]

PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))
VALUES = st.sampled_from([b"", b"1", b"2"])


# ---- the reference ---------------------------------------------------------------------------------------------------


def parent(path: str) -> str:
    """Path of the parent."""
    return path.rpartition("/")[0] or "/"


def write(tree: Tree, path: str, value: bytes | None) -> object:
    """Set a value (None: only make the node), with parents."""
    ancestor = parent(path)
    while ancestor not in tree:
        tree[ancestor] = b""
        ancestor = parent(ancestor)
    tree[path] = tree.get(path, b"") if value is None else value
    return b"OK\0"


def remove(tree: Tree, path: str) -> object:
    """Remove a subtree."""
    if path not in tree and parent(path) not in tree:
        return "ENOENT"
    for name in [name for name in tree if name == path or name.startswith(f"{path}/")]:
        del tree[name]
    return b"OK\0"


def read(tree: Tree, path: str) -> object:
    """The value."""
    return tree.get(path, "ENOENT")


def directory(tree: Tree, path: str) -> object:
    """Names of children."""
    if path not in tree:
        return "ENOENT"
    return {name.rpartition("/")[2] for name in tree if name != "/" and parent(name) == path}


# ---- the store, by way of its requests -------------------------------------------------------------------------------


class NoToolstack:
    """Nobody comes or goes here."""

    def introduce(self, domid: int) -> None:
        """Never asked for."""
        raise AssertionError

    def release(self, domid: int) -> None:
        """Never asked for."""
        raise AssertionError


@dataclass(eq=False)
class Session:
    """A connection that keeps its last answer."""

    domain: Domain
    transactions: dict[int, Transaction] = field(default_factory=dict)
    next_transaction_id: int = 1
    answer: Message | None = None
    events: list[bytes] = field(default_factory=list)

    def send_reply(self, message: Message) -> None:
        """Keep it."""
        self.answer = message

    def send_event(self, message: Message) -> None:
        """Keep it."""
        self.events.append(message.payload)


@dataclass
class Open:
    """A transaction under way: what was asked and answered, and the tree's age at its start."""

    tx_id: int
    started_at: int
    log: list[tuple[Operation, object]] = field(default_factory=list)


class StoreMachine(RuleBasedStateMachine):
    """Requests in and out of several transactions.

    The claim is serialisability: a committed transaction's requests, done again at the instant of the commit on a plain
    dict, give the same answers and the same tree. And EAGAIN is never without cause.
    """

    transactions = Bundle("transactions")

    def __init__(self) -> None:
        super().__init__()
        store = Store(Limits())
        domain = Domain(0, privileged=True, generation=0)
        store.domains.add(domain)
        self.dispatcher = Dispatcher(store, WatchRegistry(), NoToolstack())
        self.session = Session(domain)
        self.ask(Op.WATCH, b"/\0token\0")
        self.session.events.clear()
        self.tree: Tree = {"/": b""}
        self.age = 0

    def ask(self, op: Op, payload: bytes, tx_id: int = 0) -> object:
        """The answer's payload, or the name of its error."""
        self.dispatcher.handle(self.session, Message(op, 1, tx_id, payload))
        answer = self.session.answer
        assert answer is not None
        return answer.payload.rstrip(b"\0").decode() if answer.type == Op.ERROR else answer.payload

    def do(self, tx: Open | None, answer: object, operation: Operation) -> None:
        """Compare with the reference now, or note it until the commit."""
        if tx is None:
            assert answer == operation(self.tree)
        else:
            tx.log.append((operation, answer))

    @rule(target=transactions)
    def begin(self) -> Open:
        """TRANSACTION_START."""
        answer = self.ask(Op.TRANSACTION_START, b"\0")
        assert isinstance(answer, bytes)
        return Open(int(answer[:-1]), self.age)

    @rule(tx=st.none() | transactions, path=PATHS, value=VALUES)
    def write(self, tx: Open | None, path: str, value: bytes) -> None:
        """WRITE."""
        answer = self.ask(Op.WRITE, path.encode() + b"\0" + value, tx.tx_id if tx else 0)
        self.age += tx is None
        self.do(tx, answer, lambda tree: write(tree, path, value))

    @rule(tx=st.none() | transactions, path=PATHS)
    def mkdir(self, tx: Open | None, path: str) -> None:
        """MKDIR."""
        answer = self.ask(Op.MKDIR, path.encode() + b"\0", tx.tx_id if tx else 0)
        self.age += tx is None
        self.do(tx, answer, lambda tree: write(tree, path, None))

    @rule(tx=st.none() | transactions, path=PATHS)
    def rm(self, tx: Open | None, path: str) -> None:
        """RM."""
        answer = self.ask(Op.RM, path.encode() + b"\0", tx.tx_id if tx else 0)
        self.age += tx is None
        self.do(tx, answer, lambda tree: remove(tree, path))

    @rule(tx=st.none() | transactions, path=PATHS)
    def read(self, tx: Open | None, path: str) -> None:
        """READ."""
        answer = self.ask(Op.READ, path.encode() + b"\0", tx.tx_id if tx else 0)
        self.do(tx, answer, lambda tree: read(tree, path))

    @rule(tx=st.none() | transactions, path=PATHS | st.just("/"))
    def directory(self, tx: Open | None, path: str) -> None:
        """DIRECTORY."""
        answer = self.ask(Op.DIRECTORY, path.encode() + b"\0", tx.tx_id if tx else 0)
        if isinstance(answer, bytes):
            answer = set(answer.decode().split("\0")[:-1])
        self.do(tx, answer, lambda tree: directory(tree, path))

    @rule(tx=consumes(transactions))
    def abort(self, tx: Open) -> None:
        """TRANSACTION_END F: nothing has happened."""
        assert self.ask(Op.TRANSACTION_END, b"F\0", tx.tx_id) == b"OK\0"
        assert self.session.events == []

    @rule(tx=consumes(transactions))
    def commit(self, tx: Open) -> None:
        """TRANSACTION_END T: all of it happens now, or it is EAGAIN, for a reason."""
        answer = self.ask(Op.TRANSACTION_END, b"T\0", tx.tx_id)
        if answer == "EAGAIN":
            assert self.age > tx.started_at
            assert self.session.events == []
            return
        assert answer == b"OK\0"
        before = dict(self.tree)
        for operation, expected in tx.log:
            assert operation(self.tree) == expected
        self.age += self.tree != before
        self.check_events(before)

    @rule(path=PATHS)
    def watched_rm(self, path: str) -> None:
        """A removal outside of a transaction is heard of if it removed something."""
        self.session.events.clear()
        before = dict(self.tree)
        self.rm(None, path)
        self.check_events(before)

    def check_events(self, before: Tree) -> None:
        """The watch on the root heard of each node that changed, or of one above that went with it."""
        heard = {event.split(b"\0")[0].decode() for event in self.session.events}
        for path in before.keys() | self.tree.keys():
            if before.get(path) == self.tree.get(path):
                continue
            if path in before and path not in self.tree:
                assert any(path == name or path.startswith(f"{name}/") for name in heard)
            elif path in before or self.tree[path]:
                assert path in heard

    @invariant()
    def same_tree(self) -> None:
        """The whole committed tree is that of the reference."""
        self.session.events.clear()
        for path in sorted(self.tree):
            assert self.ask(Op.READ, path.encode() + b"\0") == self.tree[path]
            answer = self.ask(Op.DIRECTORY, path.encode() + b"\0")
            assert isinstance(answer, bytes)
            assert set(answer.decode().split("\0")[:-1]) == directory(self.tree, path)


TestStoreAgainstDict = StoreMachine.TestCase
TestStoreAgainstDict.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
