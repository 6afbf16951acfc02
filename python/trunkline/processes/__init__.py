"""The processes of one Trunkline (gateway, control plane, worker) and the supervisor that watches over them."""
