"""Make the worker types of cluster.yaml stand in for each other when AWS refuses one.

The autoscaler of Ray 2.60 gives a type a lower rank only if a request goes unanswered. One that is refused at once
(InsufficientInstanceCapacity, MaxSpotInstanceCountExceeded) it asks for again and again, and never for another. Here a
refusal counts as well, and while a type is out of favour (for RAY_AUTOSCALER_AVAILABILITY_RECOVERY_S seconds), those
that are not come first, whatever their size.

Python imports a module of this name, if there is one, whenever it starts. cluster.yaml puts this folder on the path of
the head's Ray, and only Ray's monitor changes anything. Another version of Ray, whose names differ, stays as it is.
"""

import sys


def count_refusals() -> None:
    """Change Ray's autoscaler (v2) in this process."""
    from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
    from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingNodeStatus
    from ray.core.generated.instance_manager_pb2 import Instance

    resolve = Reconciler._try_resolve_pending_allocation
    notify = CloudResourceMonitor.notify
    sched_best_node = ResourceDemandScheduler._sched_best_node

    def resolve_with_type(im_instance, *arguments, **options):
        event = resolve(im_instance, *arguments, **options)
        if event is not None and event.new_instance_status == Instance.ALLOCATION_FAILED:
            event.instance_type = im_instance.instance_type
        return event

    def notify_of_refusals(self, events):
        notify(self, events)
        for event in events:
            if event.new_instance_status == Instance.ALLOCATION_FAILED and event.instance_type:
                self.allocation_timeout(event)

    def sched_best_node_in_favour(requests, nodes, source, availabilities, recoveries, *arguments):
        by_favour = {True: [], False: []}
        for node in nodes:
            is_new = node.status == SchedulingNodeStatus.TO_LAUNCH
            by_favour[not is_new or recoveries.get(node.node_type, 1.0) >= 1.0].append(node)
        best, left, rest = sched_best_node(requests, by_favour[True], source, availabilities, recoveries, *arguments)
        if best is not None:
            return best, left, rest + by_favour[False]
        return sched_best_node(requests, nodes, source, availabilities, recoveries, *arguments)

    Reconciler._try_resolve_pending_allocation = staticmethod(resolve_with_type)
    CloudResourceMonitor.notify = notify_of_refusals
    ResourceDemandScheduler._sched_best_node = staticmethod(sched_best_node_in_favour)


if any(part.endswith("autoscaler/v2/monitor.py") for part in sys.orig_argv):
    try:
        count_refusals()
    except (ImportError, AttributeError) as error:
        print(f"types of nodes do not stand in for each other: this Ray is another ({error})", file=sys.stderr)
