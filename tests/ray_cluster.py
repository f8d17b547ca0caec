"""A Ray cluster of a head and two workers of one processor each, all on this machine.

Prints its address; each line it reads kills a worker node, and the end of its input the rest.
"""

import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(workers.pop(), allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()
