"""The stores that are measured side by side: each module has a class Store with the same few methods.

    Store(folder)                      folder: of its own, in memory (/dev/shm), or Penstock's socket directory
    put(name, array)                   array: one dimension of bytes; a name may be put again
    get(name) -> np.ndarray            as the store hands it out: mapped if it can, else a copy
    put_many({name: array}), get_many([name]) -> list of arrays: the store's own batch, if it has one
    close()
"""
