"""The same place to capture at as the client's tests have."""

from tests.client.conftest import bench, lasting_veth, own_bench

__all__ = ["bench", "lasting_veth", "own_bench"]
