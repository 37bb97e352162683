"""Verdicts as registers of Modbus TCP, in a server that the PLC reads or written into the PLC.

| register | content |
|---|---|
| +0 | heartbeat: one more each second |
| +1 | counter: one more with each verdict; the other registers change together with it |
| +2 | state of the source: 0 none yet, 1 pass, 2 fail, 3 unknown |
| +3 | result of this picture: the same numbers |
| +4 | number of the class, 0 without a class |
| +5 | confidence, 0 to 10000 |
| +6 | version that predicted |

Counters and version go on at 0 after 65535. When the bridge starts, +1 to +6 are 0.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from service.bridge.config import ModbusSink
from service.bridge.sinks.base import Sink
from service.bridge.verdict import Verdict

REGISTERS: Final = 7
NUMBERS: Final = {"pass": 1, "fail": 2, "unknown": 3}
HEARTBEAT_S: Final = 1.0
_WRITE_REGISTERS: Final = 16
_WRAP: Final = 65536

Write = Callable[[int, list[int]], Awaitable[None]]


class Modbus(Sink):
    """The registers of the latest verdict.

    Args:
        config: server or client, address and first register.
    """

    connection_errors = (OSError, ModbusException, RuntimeError)

    def __init__(self, config: ModbusSink) -> None:
        super().__init__(config.name)
        self._config = config
        self._write: Write | None = None
        self._cleared = False

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Serve, or be connected to the PLC, and send heartbeats inside the block."""
        connect = self._serving if self._config.mode == "server" else self._writing
        async with connect() as self._write:
            ended = asyncio.Event()
            beating = asyncio.create_task(self._beat(self._write, ended))
            try:
                yield
            finally:
                ended.set()
                beating.cancel()
                with contextlib.suppress(asyncio.CancelledError, *self.connection_errors):
                    await beating

    async def send(self, verdict: Verdict) -> None:
        """Write the registers."""
        if self._write is None:
            raise ModbusException("not connected")
        values = registers(verdict)
        await self._write(self._config.address + 1, values)

    async def _beat(self, write: Write, ended: asyncio.Event) -> None:
        """Count up until `ended`: pymodbus turns a cancellation in the middle of a write into an error of its own."""
        beats = 0
        while not ended.is_set():
            beats = (beats + 1) % _WRAP
            with contextlib.suppress(*self.connection_errors):  # the next verdict meets the same error
                await write(self._config.address, [beats])
            await asyncio.sleep(HEARTBEAT_S)

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[Write]:
        config = self._config
        data = SimData(config.address, values=[0] * REGISTERS, datatype=DataType.REGISTERS)
        server = ModbusTcpServer(SimDevice(config.unit, [data]), address=(config.host, config.port))
        await server.serve_forever(background=True)
        try:
            yield lambda address, values: server.async_setValues(config.unit, _WRITE_REGISTERS, address, values)
        finally:
            await server.shutdown()  # type: ignore[no-untyped-call]

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[Write]:
        config = self._config
        client = AsyncModbusTcpClient(config.host, port=config.port, timeout=3, retries=0)

        async def write(address: int, values: list[int]) -> None:
            response = await client.write_registers(address, values, device_id=config.unit)
            if response.isError():
                raise ModbusException(f"the PLC rejects registers {address} to {address + len(values) - 1}: {response}")

        if not await client.connect():
            raise OSError(f"cannot connect to {config.host}:{config.port}")
        try:
            if not self._cleared:  # the PLC may still hold the counter of an earlier run, which also began at 1
                await write(config.address + 1, [0] * (REGISTERS - 1))
                self._cleared = True
            yield write
        finally:
            client.close()


def registers(verdict: Verdict) -> list[int]:
    """Return the registers of a verdict, from +1 on."""
    return [
        verdict.number % _WRAP,
        NUMBERS[verdict.state],
        NUMBERS[verdict.result],
        verdict.class_number,
        round(verdict.confidence * 10_000),
        verdict.version % _WRAP,
    ]
