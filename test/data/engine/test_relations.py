"""Relations of every kind: read with include, filtered by, and written through nested create, connect, update, ..."""

from typing import Any

import pytest

from data.engine.conftest import Sql


@pytest.fixture
async def blog(db: Any) -> Any:
    """Two authors with three posts each (views 0 to 5), a profile for the first, tags, and a manager."""
    await db.user.create(data={"id": "boss", "email": "boss"})
    for number, name in enumerate(["ann", "bob"]):
        await db.user.create(
            data={
                "id": name,
                "email": name,
                "manager": {"connect": {"id": "boss"}},
                "posts": {
                    "create": [
                        {"title": f"{name} {index}", "views": number * 3 + index, "published": index > 0}
                        for index in range(3)
                    ]
                },
            }
        )
    await db.profile.create(data={"bio": "I am Ann", "user": {"connect": {"id": "ann"}}})
    return db


def titles(posts: list[Any] | None) -> list[str]:
    assert posts is not None
    return sorted(post.title for post in posts)


# --- include ----------------------------------------------------------------------------------------------------------


async def test_include_of_every_kind(blog: Any) -> None:
    ann = await blog.user.find_unique(
        where={"id": "ann"}, include={"profile": True, "posts": True, "manager": True, "groups": True}
    )
    assert (ann.profile.bio, titles(ann.posts), ann.manager.id, ann.groups) == (
        "I am Ann",
        ["ann 0", "ann 1", "ann 2"],
        "boss",
        [],
    )
    assert ann.reports is None, "not included"
    boss = await blog.user.find_unique(
        where={"id": "boss"}, include={"profile": True, "posts": True, "manager": True, "reports": True}
    )
    assert (boss.profile, boss.posts, boss.manager) == (None, [], None)
    assert sorted(user.id for user in boss.reports) == ["ann", "bob"]


async def test_nested_include_with_arguments(blog: Any) -> None:
    boss = await blog.user.find_unique(
        where={"id": "boss"},
        include={
            "reports": {
                "order_by": {"id": "desc"},
                "include": {
                    "posts": {
                        "where": {"published": True},
                        "order_by": {"views": "desc"},
                        "take": 1,
                        "include": {"author": True},
                    },
                    "profile": {"include": {"user": True}},
                },
            },
            "posts": False,
        },
    )
    assert [user.id for user in boss.reports] == ["bob", "ann"]
    assert [[post.title for post in user.posts] for user in boss.reports] == [["bob 2"], ["ann 2"]]
    assert boss.reports[0].posts[0].author.id == "bob"
    assert [user.profile and user.profile.user.id for user in boss.reports] == [None, "ann"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"take": 2}, [0, 1]),
        ({"take": -1}, [2]),
        ({"skip": 1}, [1, 2]),
        ({"skip": 1, "take": 1}, [1]),
        ({"where": {"views": {"in": [1, 2, 4]}}}, None),
    ],
)
async def test_paging_inside_include_is_per_parent(
    blog: Any, arguments: dict[str, Any], expected: list[int] | None
) -> None:
    listed = await blog.user.find_many(
        where={"id": {"in": ["ann", "bob"]}},
        order={"id": "asc"},
        include={"posts": {"order_by": {"views": "asc"}, **arguments}},
    )
    got = [[post.title for post in user.posts] for user in listed]
    if expected is None:
        assert got == [["ann 1", "ann 2"], ["bob 1"]]
    else:
        assert got == [[f"{name} {index}" for index in expected] for name in ("ann", "bob")]


async def test_cursor_and_distinct_inside_include(blog: Any) -> None:
    second = await blog.post.find_first(where={"title": "ann 1"})
    ann = await blog.user.find_unique(
        where={"id": "ann"}, include={"posts": {"cursor": {"id": second.id}, "order_by": {"id": "asc"}}}
    )
    assert [post.title for post in ann.posts] == ["ann 1", "ann 2"]
    listed = await blog.user.find_many(
        where={"id": {"in": ["ann", "bob"]}},
        order={"id": "asc"},
        include={"posts": {"distinct": ["published"], "order_by": {"views": "asc"}}},
    )
    assert [titles(user.posts) for user in listed] == [["ann 0", "ann 1"], ["bob 0", "bob 1"]]


async def test_composite_relation(db: Any) -> None:
    for version in (1, 2):
        await db.document.create(
            data={
                "id": "d",
                "version": version,
                "title": f"T{version}",
                "language": "en",
                "pages": {"create": [{"number": n, "body": f"{version}.{n}"} for n in range(version + 1)]},
            }
        )
    listed = await db.document.find_many(
        order={"version": "asc"}, include={"pages": {"order_by": {"number": "desc"}, "take": 2}}
    )
    assert [[page.body for page in document.pages] for document in listed] == [["1.1", "1.0"], ["2.2", "2.1"]]
    key = {"documentId": "d", "documentVersion": 2, "number": 1}
    page = await db.page.find_unique(where={"documentId_documentVersion_number": key}, include={"document": True})
    assert page.document.title == "T2"
    assert await db.page.count(where={"document": {"is": {"title": "T1"}}}) == 2


async def test_order_by_relations(blog: Any) -> None:
    posts = await blog.post.find_many(order=[{"author": {"email": "desc"}}, {"views": "asc"}])
    assert [post.title for post in posts] == ["bob 0", "bob 1", "bob 2", "ann 0", "ann 1", "ann 2"]
    users = await blog.user.find_many(order=[{"posts": {"_count": "desc"}}, {"id": "desc"}])
    assert [user.id for user in users] == ["bob", "ann", "boss"]


# --- filter -----------------------------------------------------------------------------------------------------------


RELATION_FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"posts": {"some": {"views": {"gt": 3}}}}, ["bob"]),
    ({"posts": {"every": {"views": {"gt": 2}}}}, ["bob", "boss"]),
    ({"posts": {"none": {"published": True}}}, ["boss"]),
    ({"posts": {"some": {}}}, ["ann", "bob"]),
    ({"posts": {"none": {}}}, ["boss"]),
    ({"manager": {"is": {"id": "boss"}}}, ["ann", "bob"]),
    ({"manager": {"is_not": {"id": "boss"}}}, ["boss"]),
    ({"manager": {"is": None}}, ["boss"]),
    ({"manager": None}, ["boss"]),
    ({"manager": {"email": "boss"}}, ["ann", "bob"]),
    ({"profile": {"is": {"bio": {"contains": "Ann"}}}}, ["ann"]),
    ({"reports": {"some": {"posts": {"some": {"title": "bob 2"}}}}}, ["boss"]),
    ({"OR": [{"profile": {"is": {"bio": "I am Ann"}}}, {"posts": {"none": {}}}]}, ["ann", "boss"]),
]


@pytest.mark.parametrize(("where", "expected"), RELATION_FILTERS)
async def test_relation_filters(blog: Any, where: dict[str, Any], expected: list[str]) -> None:
    assert [user.id for user in await blog.user.find_many(where=where, order={"id": "asc"})] == expected
    assert await blog.user.update_many(where=where, data={"age": 1}) == len(expected)
    assert await blog.user.count(where={"age": 1}) == len(expected)


# --- nested writes: one-to-many and one-to-one -------------------------------------------------------------------------


async def update_posts(db: Any, changes: dict[str, Any], user: str = "ann") -> list[str]:
    changed = await db.user.update(where={"id": user}, data={"posts": changes}, include={"posts": True})
    return titles(changed.posts)


async def post_id(db: Any, title: str) -> int:
    return int((await db.post.find_first_or_raise(where={"title": title})).id)


async def test_create_and_connect_from_either_side(db: Any) -> None:
    post = await db.post.create(
        data={"title": "x", "author": {"create": {"id": "a", "email": "a"}}}, include={"author": True}
    )
    assert post.author.id == "a"
    post = await db.post.create(data={"title": "y", "author": {"connect": {"email": "a"}}}, include={"author": True})
    assert post.author.id == "a"
    post = await db.post.create(data={"title": "z", "authorId": "a"})
    assert post.authorId == "a"
    orphan = await db.post.create(data={"title": "w"})
    user = await db.user.create(
        data={
            "id": "b",
            "email": "b",
            "posts": {"connect": [{"id": orphan.id}, {"id": post.id}], "create": [{"title": "v"}]},
        },
        include={"posts": True},
    )
    assert titles(user.posts) == ["v", "w", "z"]
    for where in ({"email": "a"}, {"email": "c"}):
        data = {"title": "u", "author": {"connect_or_create": {"where": where, "create": {"id": "c", "email": "c"}}}}
        post = await db.post.create(data=data, include={"author": True})
        assert post.author.email == where["email"]
    deep = await db.user.create(
        data={
            "email": "deep",
            "profile": {"create": {"bio": "x"}},
            "posts": {"create": [{"title": "t", "comments": {"create": [{"text": "c"}]}}]},
        },
        include={"profile": True, "posts": {"include": {"comments": True}}},
    )
    assert (deep.profile.bio, deep.posts[0].comments[0].text) == ("x", "c")


async def test_nested_create_many(db: Any) -> None:
    data = {"email": "a", "posts": {"create_many": {"data": [{"title": "x"}, {"title": "y"}]}}}
    user = await db.user.create(data=data, include={"posts": True})
    assert titles(user.posts) == ["x", "y"]


async def test_nested_update(blog: Any) -> None:
    first = await post_id(blog, "ann 0")
    changes = {"update": [{"where": {"id": first}, "data": {"title": "changed", "views": {"increment": 10}}}]}
    assert await update_posts(blog, changes) == ["ann 1", "ann 2", "changed"]
    assert (await blog.post.find_unique(where={"id": first})).views == 10
    changed = await blog.post.update(
        where={"id": first}, data={"author": {"update": {"name": "N"}}}, include={"author": True}
    )
    assert changed.author.name == "N"
    changed = await blog.user.update(
        where={"id": "ann"}, data={"profile": {"update": {"bio": "new"}}}, include={"profile": True}
    )
    assert changed.profile.bio == "new"


async def test_nested_update_many_and_delete_many(blog: Any) -> None:
    changes = {"update_many": [{"where": {"published": True}, "data": {"title": "many"}}]}
    assert await update_posts(blog, changes) == ["ann 0", "many", "many"]
    assert await update_posts(blog, {"delete_many": [{"title": "many"}]}) == ["ann 0"]
    assert await blog.post.count() == 4, "bob's are untouched"
    assert await update_posts(blog, {"delete_many": {}}) == []


async def test_nested_upsert(blog: Any) -> None:
    first = await post_id(blog, "ann 0")
    upsert = {"create": {"title": "created"}, "update": {"title": "updated"}}
    changes = {"upsert": [{"where": {"id": first}, **upsert}, {"where": {"id": 999}, **upsert}]}
    assert await update_posts(blog, changes) == ["ann 1", "ann 2", "created", "updated"]
    for user, expected in (("ann", "updated"), ("bob", "created")):
        profile = {"upsert": {"create": {"bio": "created"}, "update": {"bio": "updated"}}}
        changed = await blog.user.update(where={"id": user}, data={"profile": profile}, include={"profile": True})
        assert changed.profile.bio == expected


async def test_nested_delete(blog: Any, errors: Any) -> None:
    assert await update_posts(blog, {"delete": [{"id": await post_id(blog, "ann 0")}]}) == ["ann 1", "ann 2"]
    assert await blog.post.count() == 5
    with pytest.raises(errors.DataError):  # not hers
        await update_posts(blog, {"delete": [{"id": await post_id(blog, "bob 0")}]})
    assert await blog.post.count() == 5
    changed = await blog.user.update(where={"id": "ann"}, data={"profile": {"delete": True}}, include={"profile": True})
    assert changed.profile is None
    assert await blog.profile.count() == 0


async def test_connect_disconnect_and_set(blog: Any) -> None:
    ann0, ann1, bob0 = [await post_id(blog, title) for title in ("ann 0", "ann 1", "bob 0")]
    assert await update_posts(blog, {"connect": [{"id": bob0}]}) == ["ann 0", "ann 1", "ann 2", "bob 0"]
    assert await update_posts(blog, {"disconnect": [{"id": ann0}, {"id": ann1}]}) == ["ann 2", "bob 0"]
    assert (await blog.post.find_unique(where={"id": ann0})).authorId is None
    assert await update_posts(blog, {"set": [{"id": ann0}, {"id": bob0}]}) == ["ann 0", "bob 0"]
    assert await update_posts(blog, {"set": []}) == []
    assert await blog.post.count() == 6
    changed = await blog.user.update(where={"id": "ann"}, data={"manager": {"disconnect": True}})
    assert changed.managerId is None
    changed = await blog.user.update(where={"id": "ann"}, data={"manager": {"connect": {"email": "bob"}}})
    assert changed.managerId == "bob"


async def test_one_to_one_connect_moves_the_other_side(blog: Any, errors: Any) -> None:
    profile = await blog.profile.find_first()
    bob = await blog.user.update(
        where={"id": "bob"}, data={"profile": {"connect": {"id": profile.id}}}, include={"profile": True}
    )
    assert bob.profile.id == profile.id
    ann = await blog.user.find_unique(where={"id": "ann"}, include={"profile": True})
    assert ann.profile is None
    with pytest.raises(errors.DataError):  # a profile needs its user
        await blog.user.update(where={"id": "bob"}, data={"profile": {"disconnect": True}})


async def test_connecting_what_does_not_exist(blog: Any, errors: Any) -> None:
    with pytest.raises(errors.DataError) as caught:
        await blog.post.create(data={"title": "x", "author": {"connect": {"id": "nobody"}}})
    assert caught.value.code == "P2025"
    with pytest.raises(errors.DataError) as caught:
        await blog.user.update(where={"id": "bob"}, data={"posts": {"connect": [{"id": 999}]}})
    assert caught.value.code in {"P2018", "P2025"}
    with pytest.raises(errors.ForeignKeyViolationError):
        await blog.post.create(data={"title": "x", "authorId": "nobody"})


async def test_a_failed_nested_write_leaves_nothing(blog: Any, errors: Any) -> None:
    with pytest.raises(errors.UniqueViolationError):
        await blog.user.create(
            data={"email": "new", "posts": {"create": [{"title": "x"}]}, "reports": {"create": [{"email": "ann"}]}}
        )
    assert await blog.user.count(where={"email": "new"}) == 0
    assert await blog.post.count() == 6


# --- nested writes: many-to-many ---------------------------------------------------------------------------------------


async def test_many_to_many(db: Any, sql: Sql) -> None:
    group = await db.group.create(
        data={"id": "g", "title": "G", "users": {"create": [{"id": "a", "email": "a"}, {"id": "b", "email": "b"}]}},
        include={"users": {"order_by": {"id": "asc"}}},
    )
    assert [user.id for user in group.users] == ["a", "b"]
    await db.group.create(data={"id": "h", "title": "H", "users": {"connect": [{"id": "b"}]}})
    assert sql('SELECT A, B FROM "_GroupToUser" ORDER BY 1, 2') == [("g", "a"), ("g", "b"), ("h", "b")]
    users = await db.user.find_many(order={"id": "asc"}, include={"groups": {"order_by": {"title": "desc"}}})
    assert [[group.title for group in user.groups] for user in users] == [["G"], ["H", "G"]]
    assert await db.user.count(where={"groups": {"some": {"title": "H"}}}) == 1
    assert await db.user.count(where={"groups": {"every": {"title": "G"}}}) == 1

    async def members(changes: dict[str, Any]) -> list[str]:
        changed = await db.group.update(
            where={"id": "g"}, data={"users": changes}, include={"users": {"order_by": {"id": "asc"}}}
        )
        return [user.id for user in changed.users]

    assert await members({"connect": [{"id": "a"}]}) == ["a", "b"], "connecting twice changes nothing"
    assert await members({"disconnect": [{"id": "a"}]}) == ["b"]
    assert await members({"set": [{"id": "a"}]}) == ["a"]
    assert await members({"connect_or_create": [{"where": {"id": "c"}, "create": {"id": "c", "email": "c"}}]}) == [
        "a",
        "c",
    ]
    assert await members({"delete": [{"id": "c"}]}) == ["a"]
    assert await db.user.count() == 2
    await db.group.delete(where={"id": "g"})
    assert sql('SELECT A, B FROM "_GroupToUser"') == [("h", "b")]


async def test_self_relation_many_to_many(db: Any) -> None:
    await db.user.create(
        data={"id": "a", "email": "a", "friends": {"create": [{"id": "b", "email": "b"}, {"id": "c", "email": "c"}]}}
    )
    b = await db.user.find_unique(where={"id": "b"}, include={"friends": True, "friendOf": True})
    assert (b.friends, [user.id for user in b.friendOf]) == ([], ["a"])


# --- referential actions ----------------------------------------------------------------------------------------------


async def test_referential_actions(blog: Any, errors: Any) -> None:
    post = await blog.post.find_first_or_raise(where={"title": "ann 0"})
    await blog.comment.create(data={"text": "c", "post": {"connect": {"id": post.id}}})
    with pytest.raises(errors.ForeignKeyViolationError) as caught:  # Restrict
        await blog.post.delete(where={"id": post.id})
    assert caught.value.code == "P2003"
    await blog.user.delete(where={"id": "ann"})  # Cascade: the profile; SetNull: the posts
    assert await blog.profile.count() == 0
    assert await blog.post.count(where={"authorId": None}) == 3
    await blog.user.delete(where={"id": "boss"})
    assert (await blog.user.find_unique(where={"id": "bob"})).managerId is None


async def test_delete_with_include(blog: Any) -> None:
    gone = await blog.user.delete(where={"id": "ann"}, include={"posts": True, "manager": True})
    assert (titles(gone.posts), gone.manager.id) == (["ann 0", "ann 1", "ann 2"], "boss")
