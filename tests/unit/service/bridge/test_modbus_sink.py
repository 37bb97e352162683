"""Modbus TCP: a PLC, played by the client of pymodbus, reads the registers, or has them written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException

from service.bridge.config import ModbusSink
from service.bridge.sinks.modbus import REGISTERS, Modbus
from tests.free_port import free_port
from tests.unit.service.bridge.conftest import BAD, GOOD, Scripted, run, running, verdict


@asynccontextmanager
async def plc(port: int) -> AsyncIterator[AsyncModbusTcpClient]:
    client = AsyncModbusTcpClient("127.0.0.1", port=port)
    assert await client.connect()
    try:
        yield client
    finally:
        client.close()


async def read(client: AsyncModbusTcpClient, address: int = 0) -> list[int]:
    response = await client.read_holding_registers(address, count=REGISTERS, device_id=1)
    assert not response.isError(), response
    return list(response.registers)


def test_the_plc_reads_the_latest_verdict() -> None:
    async def main() -> None:
        port = free_port()
        sink = Modbus(ModbusSink(type="modbus", port=port, address=100))
        async with sink.connected(), plc(port) as client:
            assert (await read(client, 100))[1:] == [0, 0, 0, 0, 0, 0]
            await sink.send(verdict(GOOD))
            assert (await read(client, 100))[1:] == [1, 1, 1, 2, 9000, 3]
            await sink.send(verdict(BAD))
            assert (await read(client, 100))[1:] == [1, 2, 2, 1, 8000, 3]
            await sink.send(verdict(None))
            assert (await read(client, 100))[1:] == [1, 3, 3, 0, 0, 0]

    run(main())


def test_the_heartbeat_counts_without_verdicts() -> None:
    async def main() -> None:
        port = free_port()
        async with Modbus(ModbusSink(type="modbus", port=port)).connected(), plc(port) as client:
            first = (await read(client))[0]
            while (await read(client))[0] == first:
                pass

    run(main())


def test_registers_are_written_into_the_plc_also_after_it_was_away() -> None:
    async def main() -> None:
        port = free_port()
        source = Scripted()
        served = Modbus(ModbusSink(type="modbus", port=port, name="plc"))
        written = Modbus(ModbusSink(type="modbus", mode="client", port=port))
        async with running([source], [(written, 9)]) as bridge:
            counters = bridge.counters.sinks["modbus"]
            for number in (1, 2):  # the second time, the connection that was made has gone
                async with served.connected(), plc(port) as client:
                    source.put(f"{number}.png")
                    while counters.sent < number:
                        await asyncio.sleep(0)
                    assert (await read(client))[1:3] == [number, 1]
            assert counters.dropped == 0
        assert counters.reconnects > 0

    run(main())


def test_a_bridge_that_starts_clears_what_an_earlier_one_left_in_the_plc() -> None:
    async def main() -> None:
        port = free_port()
        served = Modbus(ModbusSink(type="modbus", port=port))
        written = Modbus(ModbusSink(type="modbus", mode="client", port=port))
        async with served.connected(), plc(port) as client:
            await served.send(verdict(GOOD))
            async with written.connected():
                assert (await read(client))[1:] == [0, 0, 0, 0, 0, 0]
                await written.send(verdict(BAD))
            async with written.connected():  # the connection of a running bridge was lost
                assert (await read(client))[1] == 1

    run(main())


def test_registers_that_the_plc_does_not_have_are_named() -> None:
    async def main() -> None:
        port = free_port()
        served = Modbus(ModbusSink(type="modbus", port=port))
        written = Modbus(ModbusSink(type="modbus", mode="client", port=port, address=500))
        async with served.connected(), written.connected():
            await written.send(verdict())

    with pytest.raises(ModbusException, match="the PLC rejects registers 501 to 506"):
        run(main())


def test_a_plc_that_is_away_is_named() -> None:
    async def main() -> None:
        async with Modbus(ModbusSink(type="modbus", mode="client", port=free_port())).connected():
            pass

    with pytest.raises(OSError, match=r"cannot connect to 127\.0\.0\.1"):
        run(main())
