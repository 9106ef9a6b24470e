/* The C interface, compiled as C. Returns the number of failed checks. */
#include <stdio.h>
#include <string.h>

#include "client/c/penstock.h"

static int failed = 0;
#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      ++failed;                                                       \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                 \
  } while (0)

static int count_names(void *context, const char *name, uint64_t nbytes, uint64_t version) {
  (void)name;
  (void)nbytes;
  (void)version;
  ++*(int *)context;
  return 0;
}

static void put_and_get(penstock_client *client) {
  penstock_error error;
  const float values[6] = {0, 1, 2, 3, 4, 5};
  const int64_t shape[2] = {2, 3};
  const penstock_tensor tensor = {values, "float32", 2, shape, NULL};
  uint64_t version = 0;
  CHECK(penstock_put(client, "c/x", &tensor, NULL, &version, &error) == PENSTOCK_OK);
  CHECK(version > 0);
  penstock_view *view = NULL;
  CHECK(penstock_get(client, "c/x", &view, &error) == PENSTOCK_OK);
  CHECK(penstock_view_rank(view) == 2 && penstock_view_shape(view)[1] == 3);
  CHECK(penstock_view_strides(view)[0] == 12 && penstock_view_contiguous(view));
  CHECK(strcmp(penstock_view_dtype(view), "f32") == 0);
  CHECK(penstock_view_version(view) == version && penstock_view_nbytes(view) == sizeof(values));
  CHECK(memcmp(penstock_view_data(view), values, sizeof(values)) == 0);
  const int64_t offset[2] = {1, 1};
  const int64_t extent[2] = {1, 2};
  penstock_view *part = NULL;
  CHECK(penstock_view_slice(view, offset, extent, &part, &error) == PENSTOCK_OK);
  penstock_view_release(view);
  CHECK(((const float *)penstock_view_data(part))[1] == 5);
  penstock_view_release(part);
  float out[6];
  CHECK(penstock_read_into(client, "c/x", out, sizeof(out), &error) == PENSTOCK_OK);
  CHECK(out[4] == 4);
}

static void create_and_list(penstock_client *client) {
  penstock_error error;
  const int64_t shape[1] = {1000};
  penstock_draft *draft = NULL;
  CHECK(penstock_create(client, "c/d", "u8", 1, shape, NULL, &draft, &error) == PENSTOCK_OK);
  CHECK(penstock_draft_nbytes(draft) == 1000);
  memset(penstock_draft_data(draft), 7, 1000);
  int32_t exists = 1;
  CHECK(penstock_exists(client, "c/d", &exists, &error) == PENSTOCK_OK && !exists);
  CHECK(penstock_draft_publish(draft, NULL, &error) == PENSTOCK_OK);
  CHECK(penstock_wait(client, "c/d", 0, 1.0, &error) == PENSTOCK_OK);
  CHECK(penstock_create(client, "c/e", "u8", 1, shape, NULL, &draft, &error) == PENSTOCK_OK);
  penstock_draft_abort(draft);
  int count = 0;
  CHECK(penstock_list(client, "c/", count_names, &count, &error) == PENSTOCK_OK);
  CHECK(count == 2);
}

static void errors(penstock_client *client) {
  penstock_error error;
  penstock_view *view = NULL;
  CHECK(penstock_get(client, "c/none", &view, &error) == PENSTOCK_NOT_FOUND);
  CHECK(error.status == PENSTOCK_NOT_FOUND && strstr(error.message, "c/none") != NULL);
  CHECK(view == NULL);
  CHECK(penstock_get(client, "bad//name", &view, NULL) == PENSTOCK_INVALID_ARGUMENT);
  CHECK(penstock_get(NULL, "x", &view, &error) == PENSTOCK_INVALID_ARGUMENT);
  const int64_t shape[1] = {-1};
  const penstock_tensor tensor = {&error, "f32", 1, shape, NULL};
  CHECK(penstock_put(client, "c/x", &tensor, NULL, NULL, &error) == PENSTOCK_INVALID_ARGUMENT);
  const float value = 1;
  const penstock_tensor scalar = {&value, "f32", 0, NULL, NULL};
  penstock_put_options options;
  memset(&options, 0, sizeof(options));
  options.if_absent = 1;
  CHECK(penstock_put(client, "c/x", &scalar, &options, NULL, &error) == PENSTOCK_ALREADY_EXISTS);
  options.if_absent = 0;
  options.use_if_version = 1;
  CHECK(penstock_put(client, "c/x", &scalar, &options, NULL, &error) == PENSTOCK_CONFLICT);
}

int run_c_test(const char *address);

int run_c_test(const char *address) {
  penstock_error error;
  penstock_client *client = NULL;
  CHECK(penstock_connect("/tmp/penstock-nobody-is-here", 1.0, &client, &error) ==
        PENSTOCK_UNAVAILABLE);
  CHECK(penstock_connect(address, 10.0, &client, &error) == PENSTOCK_OK);
  if (client == NULL) return failed;
  put_and_get(client);
  create_and_list(client);
  errors(client);
  int32_t deleted = 0;
  uint64_t count = 0;
  CHECK(penstock_delete(client, "c/x", &deleted, &error) == PENSTOCK_OK && deleted);
  CHECK(penstock_delete_prefix(client, "", &count, &error) == PENSTOCK_OK && count == 1);
  CHECK(strlen(penstock_version()) >= 5);
  penstock_close(client);
  return failed;
}
