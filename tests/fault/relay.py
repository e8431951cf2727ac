"""Passes TCP connections on: `python -m tests.fault.relay LISTEN TO PORT...`, the same ports on both addresses."""

import asyncio
import contextlib
import sys


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction to its end."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def serve(listen: str, to: str, ports: list[int]) -> None:
    """Pass on for ever."""

    def handler(port: int):  # type: ignore[no-untyped-def]
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there = await asyncio.open_connection(to, port)
            except OSError:
                writer.close()
                return
            await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer))

        return handle

    servers = [await asyncio.start_server(handler(port), listen, port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], [int(port) for port in sys.argv[3:]]))
