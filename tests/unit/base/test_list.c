/* The intrusive list. */
#include "base/list.h"

#include "test.h"

struct item {
    int value;
    struct list node;
};

static int digits(struct list *head)
{
    int n = 0;
    LIST_FOR_EACH(it, head)
        n = n * 10 + LIST_ENTRY(it, struct item, node)->value;
    return n;
}

TEST(list_keeps_order)
{
    struct list head;
    struct item a = { .value = 1 }, b = { .value = 2 }, c = { .value = 3 };

    list_init(&head);
    EXPECT(list_empty(&head));
    list_push_back(&head, &b.node);
    list_push_front(&head, &a.node);
    list_push_back(&head, &c.node);
    EXPECT_INT(digits(&head), 123);
    list_remove(&b.node);
    EXPECT_INT(digits(&head), 13);
    list_insert_before(&a.node, &b.node);
    EXPECT_INT(digits(&head), 213);
}

TEST(list_remove_leaves_a_node_that_may_be_removed_again)
{
    struct list head;
    struct item a = { .value = 1 };

    list_init(&head);
    list_push_back(&head, &a.node);
    list_remove(&a.node);
    EXPECT(list_empty(&head) && list_empty(&a.node));
    list_remove(&a.node);
    EXPECT(list_empty(&head));
}

TEST(list_safe_walk_may_remove_every_node)
{
    struct list head;
    struct item items[5] = { 0 };
    int seen = 0;

    list_init(&head);
    for (int i = 0; i < 5; i++)
        list_push_back(&head, &items[i].node);
    LIST_FOR_EACH_SAFE(it, &head) {
        list_remove(it);
        seen++;
    }
    EXPECT_INT(seen, 5);
    EXPECT(list_empty(&head));
}
