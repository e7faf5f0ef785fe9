"""What a pipeline will take on a cluster, before it is booked: memory, time, money, disk."""
