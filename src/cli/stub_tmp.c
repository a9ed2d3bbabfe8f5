#include "control/api.h"
#include <errno.h>
int api_put_exec(struct api_call *call, json_t **reply, struct err *e) { (void)call; (void)reply; return err_set(e, ENOSYS, "no"); }
