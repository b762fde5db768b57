"""Connections between processes that can be stalled or cut: the network that faults are made in."""

import asyncio
import contextlib
import threading

CHUNK_BYTES = 1 << 16


class Network:
    """Runs links in a thread of its own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def link(self, name, target):
        """A port that leads to the port `target()` returns; it may change, or be None."""
        link = Link(self, name, target)
        self.run(link.open())
        return link

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def close(self):
        self.run(self.end_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    async def end_all(self):
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Link:
    """A way from one process to another."""

    def __init__(self, network, name, target):
        self.network, self.name, self.target = network, name, target
        self.flows = asyncio.Event()
        # Whether what comes back is delivered.
        self.answers = asyncio.Event()
        self.refuses = False
        self.connections = set()
        self.port = None

    async def open(self):
        self.flows.set()
        self.answers.set()
        self.server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    def cut(self):
        """Ends all connections and refuses new ones."""
        self.network.run(self.set(flows=True, refuses=True))

    def stall(self):
        """Keeps connections and delivers nothing, like a network that drops packets."""
        self.network.run(self.set(flows=False, refuses=False))

    def lose_answers(self):
        """Delivers what is asked and nothing of what is answered; a cut then makes it lost."""
        self.network.run(self.set(flows=True, refuses=False, answers=False))

    def strand(self):
        """Delivers nothing on open connections, as when a machine vanishes; new ones are well."""
        self.network.run(self.set(flows=False, refuses=False))
        self.flows = asyncio.Event()
        self.heal()

    def heal(self):
        self.network.run(self.set(flows=True, refuses=False))

    async def set(self, flows, refuses, answers=True):
        self.refuses = refuses
        if refuses:
            for writer in list(self.connections):
                writer.transport.abort()
        if flows:
            self.flows.set()
        else:
            self.flows.clear()
        if answers:
            self.answers.set()
        else:
            self.answers.clear()

    async def accept(self, reader, writer):
        self.connections.add(writer)
        flows = self.flows
        try:
            await flows.wait()
            port = self.target()
            if self.refuses or port is None:
                return
            with contextlib.suppress(OSError):
                onward = await asyncio.open_connection("127.0.0.1", port)
                self.connections.add(onward[1])
                try:
                    await self.join(flows, reader, writer, *onward)
                finally:
                    self.connections.discard(onward[1])
                    onward[1].close()
        except asyncio.CancelledError:
            # The network ends. To asyncio it would be worth a traceback.
            pass
        finally:
            self.connections.discard(writer)
            writer.close()

    async def join(self, flows, reader, writer, onward_reader, onward_writer):
        ways = [
            asyncio.ensure_future(self.pump([flows], reader, onward_writer)),
            asyncio.ensure_future(self.pump([flows, self.answers], onward_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def pump(self, gates, reader, writer):
        while data := await reader.read(CHUNK_BYTES):
            for gate in gates:
                await gate.wait()
            writer.write(data)
            await writer.drain()
        # The end of a connection waits as its data does.
        for gate in gates:
            await gate.wait()
