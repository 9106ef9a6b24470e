/* The C interface of Penstock: tensors in shared memory, used where they lie.
 *
 *   penstock_error error;
 *   penstock_client *client;
 *   if (penstock_connect(NULL, 5.0, &client, &error) != PENSTOCK_OK) die(error.message);
 *   penstock_view *view;
 *   if (penstock_get(client, "model/wte", &view, &error) == PENSTOCK_OK) {
 *     const float *weights = penstock_view_data(view);
 *     ...
 *     penstock_view_release(view);
 *   }
 *   penstock_close(client);
 *
 * Threading:  a client: any number of threads. A view or draft: one thread at a time; it may be passed between threads.
 * Ownership:  what a function gives through a `**` argument is the caller's, who ends it with the function named there.
 *             Views and drafts may outlive their client. Strings and arrays that are returned live as long as the
 *             object they were asked of.
 * Errors:     every function that can fail returns a penstock_status and fills `error` (which may be NULL). Nothing is
 *             given on failure. The numbers never change.
 * Limits:     handles are checked for NULL, not for having been released.
 */
#ifndef PENSTOCK_C_PENSTOCK_H_
#define PENSTOCK_C_PENSTOCK_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum penstock_status {
  PENSTOCK_OK = 0,
  PENSTOCK_OTHER = 1,
  PENSTOCK_INVALID_ARGUMENT = 2,
  PENSTOCK_NOT_FOUND = 3,
  PENSTOCK_UNAVAILABLE = 4,
  PENSTOCK_STORE_FULL = 5,
  PENSTOCK_PERMISSION_DENIED = 6,
  PENSTOCK_DEADLINE = 7,
  PENSTOCK_CONFLICT = 8,
  PENSTOCK_ALREADY_EXISTS = 9,
  PENSTOCK_DATA_LOSS = 10,
  PENSTOCK_TRANSPORT = 11
} penstock_status;

typedef struct penstock_error {
  penstock_status status;
  char message[500]; /* for people; ends in NUL, cut when too long */
} penstock_error;

#define PENSTOCK_MAX_RANK 16

/* A dtype by its name: "f32", "bf16", "u8", also "float32", "torch.bfloat16" and NumPy's "<f4". */
typedef struct penstock_tensor {
  const void *data;       /* nbytes of it, C order unless strides are given */
  const char *dtype;
  int32_t rank;
  const int64_t *shape;   /* rank numbers; may be NULL for rank 0 */
  const int64_t *strides; /* bytes; NULL = C order without gaps */
} penstock_tensor;

#define PENSTOCK_CACHE_SOFT_PIN 2

/* All zero bytes is the default: kept, next version, no condition. */
typedef struct penstock_put_options {
  int32_t cache;          /* not 0: may be evicted; PENSTOCK_CACHE_SOFT_PIN: after all others */
  double ttl_seconds;     /* 0 = none */
  uint64_t version;       /* 0 = next; else larger than the present one */
  int32_t if_absent;      /* not 0: ALREADY_EXISTS unless the name is free */
  int32_t use_if_version; /* not 0: CONFLICT unless if_version is the present version (0 = absent) */
  uint64_t if_version;
} penstock_put_options;

typedef struct penstock_client penstock_client;
typedef struct penstock_view penstock_view;
typedef struct penstock_draft penstock_draft;

/* `address`: a socket directory or host:port; NULL: $PENSTOCK_ADDRESS, then the default. `timeout_seconds` bounds
 * connecting and every later call; 0 = 5 s. End with penstock_close. */
penstock_status penstock_connect(const char *address, double timeout_seconds, penstock_client **client,
                                 penstock_error *error);
void penstock_close(penstock_client *client);

/* --- read --- */

/* The present version of a tensor. Warm, this is no call, no copy. End with penstock_view_release. */
penstock_status penstock_get(penstock_client *client, const char *name, penstock_view **view, penstock_error *error);
/* `version` 0 = the present one. `wait_seconds` > 0: waits for the name to appear. */
penstock_status penstock_get_version(penstock_client *client, const char *name, uint64_t version, double wait_seconds,
                                     penstock_view **view, penstock_error *error);
/* A part of a view, with a pin of its own: `offset` and `extent` have one number a dimension. */
penstock_status penstock_view_slice(const penstock_view *view, const int64_t *offset, const int64_t *extent,
                                    penstock_view **slice, penstock_error *error);
void penstock_view_release(penstock_view *view);

const void *penstock_view_data(const penstock_view *view); /* read-only memory */
uint64_t penstock_view_nbytes(const penstock_view *view);
const char *penstock_view_dtype(const penstock_view *view);
int32_t penstock_view_rank(const penstock_view *view);
const int64_t *penstock_view_shape(const penstock_view *view);
const int64_t *penstock_view_strides(const penstock_view *view); /* bytes */
int32_t penstock_view_contiguous(const penstock_view *view);
uint64_t penstock_view_version(const penstock_view *view);

/* Copies a whole tensor into `out`, whose size must be the tensor's. */
penstock_status penstock_read_into(penstock_client *client, const char *name, void *out, uint64_t out_bytes,
                                   penstock_error *error);

/* --- write --- */

/* `options` and `version` (the one that it got) may be NULL. */
penstock_status penstock_put(penstock_client *client, const char *name, const penstock_tensor *tensor,
                             const penstock_put_options *options, uint64_t *version, penstock_error *error);
/* Memory of the store to be filled in place. End with penstock_draft_publish or penstock_draft_abort. */
penstock_status penstock_create(penstock_client *client, const char *name, const char *dtype, int32_t rank,
                                const int64_t *shape, const penstock_put_options *options, penstock_draft **draft,
                                penstock_error *error);
void *penstock_draft_data(const penstock_draft *draft);
uint64_t penstock_draft_nbytes(const penstock_draft *draft);
/* Ends the draft, whether it succeeds or not; its memory is not writable afterwards. */
penstock_status penstock_draft_publish(penstock_draft *draft, uint64_t *version, penstock_error *error);
void penstock_draft_abort(penstock_draft *draft);

/* `deleted` (may be NULL): 0 when there was none. */
penstock_status penstock_delete(penstock_client *client, const char *name, int32_t *deleted, penstock_error *error);
penstock_status penstock_delete_prefix(penstock_client *client, const char *prefix, uint64_t *count,
                                       penstock_error *error);

/* --- look and wait --- */

penstock_status penstock_exists(penstock_client *client, const char *name, int32_t *exists, penstock_error *error);
/* Calls `visit` for every name under `prefix`, in order, until it returns something else than 0. */
penstock_status penstock_list(penstock_client *client, const char *prefix,
                              int (*visit)(void *context, const char *name, uint64_t nbytes, uint64_t version),
                              void *context, penstock_error *error);
/* Until `version` or a later one is there; 0 = any. */
penstock_status penstock_wait(penstock_client *client, const char *name, uint64_t version, double timeout_seconds,
                              penstock_error *error);

/* "0.1.0" */
const char *penstock_version(void);

#ifdef __cplusplus
}
#endif

#endif /* PENSTOCK_C_PENSTOCK_H_ */
