"""Drop-in modules: programs written for other stores run on Penstock by changing an import.

    import penstock.compat.torchstore as ts                         # instead of: import torchstore as ts
    from penstock.compat.mooncake import MooncakeDistributedStore   # instead of: from mooncake.store

The calls have the names, arguments, results and errors of the originals; each module says where it
differs. The store is the one of $PENSTOCK_ADDRESS, or the one on this host.
"""

__all__: list[str] = []
